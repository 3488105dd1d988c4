#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "tests/gpu/workbench.h"

// Do the checks find what they are for? Each test runs a weight with a fault in it against the reference of the right
// one: what a kernel gives that drops or misplaces that part.
namespace machete::tests {
namespace {

using Check = Workbench::Check;

// A canonical weight on the host: qweight [N, ceil(K/2)] and 16-bit scales [groups, N].
struct HostWeight {
  std::int64_t n, k, group_size;
  std::vector<std::uint8_t> qweight;
  std::vector<std::uint16_t> scales;

  void set(std::int64_t row, std::int64_t column, unsigned q) {
    std::uint8_t& byte = qweight[static_cast<std::size_t>(row * ((k + 1) / 2) + column / 2)];
    byte = static_cast<std::uint8_t>(column % 2 == 0 ? (byte & 0xF0u) | q : (byte & 0x0Fu) | q << 4);
  }
  unsigned get(std::int64_t row, std::int64_t column) const {
    const unsigned byte = qweight[static_cast<std::size_t>(row * ((k + 1) / 2) + column / 2)];
    return column % 2 == 0 ? byte & 15u : byte >> 4;
  }
  std::uint16_t& scale(std::int64_t group, std::int64_t row) {
    return scales[static_cast<std::size_t>(group * n + row)];
  }
  std::int64_t groups() const { return (k + group_size - 1) / group_size; }

  // q = 8 is the value 0: rows [row, row + rows) lose their share [begin, end) of K.
  void drop(std::int64_t row, std::int64_t rows, std::int64_t begin, std::int64_t end) {
    for (std::int64_t r = row; r < row + rows; ++r) {
      for (std::int64_t c = begin; c < end; ++c) set(r, c, 8);
    }
  }
};

constexpr std::int64_t kStripe = 64;  // rows that suffer: those of one wgmma

class Faults : public GpuTest {
 protected:
  // True if the check passes the right weight and refuses the one with the fault.
  ::testing::AssertionResult finds(const Case& c, Check check, const std::function<void(HostWeight&)>& fault) {
    if (const ::testing::AssertionResult right = bench().try_case(c, check); !right) return right;

    HostWeight host{c.problem.n, c.problem.k, c.problem.group_size, {}, {}};
    host.qweight.resize(bench().qweight().size());
    host.scales.resize(bench().scales().size() / 2);
    require(bench().qweight().download(host.qweight.data(), bench().qweight().size()));
    require(bench().scales().download(host.scales.data(), bench().scales().size()));
    fault(host);

    QuantizedWeight weight = bench().weight();
    weight.qweight = host.qweight.data();
    weight.scales = host.scales.data();
    PrepackOptions options;
    options.device = Device::cuda();
    options.scale_type = c.problem.scale_type();
    options.activation_bits = bits_of(c.problem.a_type);
    const PackedWeight faulty = require(prepack(weight, options));

    bench().poison_output(c);
    const Plan plan = require(bench().make_plan(c));
    require(bench().run_plan(plan, faulty));
    const testing::DeviceErrorReport report = bench().check_output(c, check);
    require(report.status);
    if (report.passed) {
      return ::testing::AssertionFailure()
             << "the fault stays unnoticed: error/bound " << report.max_ratio << "\n  " << c;
    }
    if (check == Check::kBounds && (report.worst_n < 0 || report.worst_n >= c.problem.n)) {
      return ::testing::AssertionFailure() << "the report names no element\n  " << c;
    }
    return ::testing::AssertionSuccess();
  }

  // Calls body for each type, K up to 14336 and a few M.
  void for_each_case(std::int64_t group_size, const std::function<void(const Case&)>& body) {
    std::uint64_t seed = 9000;
    for (const DataType type : {DataType::kBf16, DataType::kF16, DataType::kS8, DataType::kE4m3}) {
      if (bits_of(type) == 8 && group_size % 32 != 0) continue;
      for (const std::int64_t k : {1024, 4096, 8192, 14336}) {
        for (const std::int64_t m : {1, 16, 64}) {
          Case c{make_problem(type, m, 256, k, group_size)};
          c.seed = ++seed;
          body(c);
        }
      }
    }
  }
};

TEST_F(Faults, DroppedBlockOfK) {
  for_each_case(128, [this](const Case& c) {
    for (const std::int64_t begin : {std::int64_t{0}, c.problem.k / 2, c.problem.k - 64}) {
      EXPECT_TRUE(finds(c, Check::kBounds, [begin](HostWeight& w) { w.drop(64, kStripe, begin, begin + 64); }))
          << "k from " << begin;
    }
  });
}

TEST_F(Faults, DroppedScaleGroup) {
  for (const std::int64_t group_size : {16, 128}) {
    for_each_case(group_size, [this](const Case& c) {
      EXPECT_TRUE(finds(c, Check::kBounds, [](HostWeight& w) {
        for (std::int64_t row = 128; row < 128 + kStripe; ++row) w.scale(w.groups() / 3, row) = 0;
      }));
    });
  }
}

TEST_F(Faults, DroppedPartOfASharedTile) {
  for_each_case(128, [this](const Case& c) {
    for (const std::int64_t parts : {2, 8}) {
      EXPECT_TRUE(
          finds(c, Check::kBounds, [parts](HostWeight& w) { w.drop(192, kStripe, w.k * (parts - 1) / parts, w.k); }))
          << "one of " << parts << " parts";
    }
  });
}

TEST_F(Faults, ScalesOfTheNextGroup) {
  for_each_case(128, [this](const Case& c) {
    EXPECT_TRUE(finds(c, Check::kBounds, [](HostWeight& w) {
      for (std::int64_t group = 0; group + 1 < w.groups(); ++group) {
        for (std::int64_t row = 0; row < kStripe; ++row) w.scale(group, row) = w.scale(group + 1, row);
      }
    }));
  });
}

// Rows r and r + 8, neighbours in a lane's registers.
TEST_F(Faults, SwappedRows) {
  for_each_case(128, [this](const Case& c) {
    EXPECT_TRUE(finds(c, Check::kBounds, [](HostWeight& w) {
      for (std::int64_t row = 0; row < kStripe; row += row % 8 == 7 ? 9 : 1) {
        for (std::int64_t column = 0; column < w.k; ++column) {
          const unsigned q = w.get(row + 8, column);
          w.set(row + 8, column, w.get(row, column));
          w.set(row, column, q);
        }
      }
    }));
  });
}

// Exact data finds the smallest fault there is: one code of one weight, off by one.
TEST_F(Faults, OneCodeOffByOne) {
  for (const DataType type : kActivationTypes) {
    Case c{make_problem(type, 64, 256, 512)};
    c.identity_from = 448;
    EXPECT_TRUE(finds(c, Check::kExact, [](HostWeight& w) { w.set(200, 500, w.get(200, 500) ^ 1u); }));
  }
}

TEST_F(Faults, OneElementOfDNeverWritten) {
  for (const DataType type : kActivationTypes) {
    const Case c{make_problem(type, 33, 130, 256)};
    ASSERT_TRUE(bench().try_case(c));
    for (const std::int64_t element : {std::int64_t{0}, c.problem.n * 32 + 129, c.problem.n * 17 + 64}) {
      std::uint16_t value = 0;
      auto* const where = bench().d().as<std::uint16_t>() + element;
      require(cudaMemcpy(&value, where, sizeof(value), cudaMemcpyDeviceToHost), "read D");
      require(cudaMemset(where, 0xFF, sizeof(value)), "poison an element of D");
      const testing::DeviceErrorReport report = bench().check_output(c, Check::kBounds);
      require(report.status);
      EXPECT_FALSE(report.passed);
      EXPECT_EQ(report.worst_m, element / c.problem.n);
      EXPECT_EQ(report.worst_n, element % c.problem.n);
      require(cudaMemcpy(where, &value, sizeof(value), cudaMemcpyHostToDevice), "restore D");
    }
    const testing::DeviceErrorReport restored = bench().check_output(c, Check::kBounds);
    EXPECT_TRUE(restored.passed);
  }
}

TEST_F(Faults, WritesBesideD) {
  Case c{make_problem(DataType::kBf16, 9, 100, 128)};
  c.problem.ldd = 103;
  ASSERT_TRUE(bench().try_case(c));
  auto* const d = bench().d().as<std::uint16_t>();
  const std::int64_t elements = 8 * 103 + 100;
  require(cudaMemset(d + 3 * 103 + 101, 0, 2), "write between two rows");
  EXPECT_EQ(require(testing::count_overwritten_padding(DataType::kBf16, d, 9, 100, 103, bench().stream())), 2);
  EXPECT_TRUE(bench().guards_intact());
  require(cudaMemset(d + elements, 0, 2), "write behind D");
  EXPECT_FALSE(bench().guards_intact());
  require(bench().d().resize(bench().d().size()));
  EXPECT_TRUE(bench().guards_intact());
  require(cudaMemset(d - 1, 0, 2), "write before D");
  EXPECT_FALSE(bench().guards_intact());
}

}  // namespace
}  // namespace machete::tests
