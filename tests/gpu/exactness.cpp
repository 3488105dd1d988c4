#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include <cstring>
#include <set>
#include <string>
#include <vector>

#include "tests/gpu/coverage.h"
#include "tests/gpu/workbench.h"

// Data whose every sum is exact in fp32: whatever order a kernel adds in, the result must be the exact one, rounded
// once.
namespace machete::tests {
namespace {

using Check = Workbench::Check;

class Exactness : public GpuTest {};

// A = I: D holds the dequantised weights, (q - 8) * s rounded once.
TEST_F(Exactness, IdentityActivationsGiveDequantisedWeights) {
  struct Weight {
    std::int64_t n, k, group_size;
  };
  const Weight weights[] = {{192, 576, 64},   {129, 1000, 48}, {64, 512, 16},   {200, 768, 32},   {65, 144, -1},
                            {256, 2048, 128}, {96, 960, 96},   {33, 1100, 192}, {100, 1536, 256}, {7, 77, 16}};
  for (const DataType type : kActivationTypes) {
    for (const Weight& w : weights) {
      // All rows at once, for the schedules of many tokens, and block by block, for those of few.
      for (const std::int64_t rows : {w.k, std::int64_t{40}, std::int64_t{8}}) {
        Case c{make_problem(type, rows, w.n, w.k, w.group_size)};
        for (const std::string& schedule : schedules_of(c.problem)) {
          c.schedule = schedule;
          // Of the small blocks, the first, one in the middle that starts at an odd k, and the last.
          std::set<std::int64_t> starts = {0};
          if (rows < w.k) starts.insert({(w.k - rows) / 2 | 1, w.k - rows});
          for (const std::int64_t start : starts) {
            c.identity_from = start;
            EXPECT_TRUE(bench().try_case(c, Check::kExact));
          }
        }
      }
    }
  }
}

// Integers -2 ... 2 and scales of 1/2, 1 and 2: products are multiples of 1/2 below 2^5, and 2^18 of them are exact.
TEST_F(Exactness, SmallIntegersThroughEverySchedule) {
  Coverage coverage;
  struct Shape {
    std::int64_t n, k, group_size;
  };
  const Shape shapes[] = {{384, 1536, 128}, {576, 4112, 16}, {1000, 1000, 48}, {4096, 4096, 128}, {256, 14336, -1}};
  std::uint64_t seed = 100;
  for (const DataType type : kActivationTypes) {
    for (const Shape& shape : shapes) {
      for (const std::int64_t m : {1, 2, 7, 8, 16, 24, 33, 48, 64, 100, 128, 200, 256, 300, 520, 1030}) {
        Case c{make_problem(type, m, shape.n, shape.k, shape.group_size)};
        c.activations = testing::ActivationFill::kIntegers;
        c.scales = testing::ScaleFill::kPowersOfTwo;
        c.seed = ++seed;
        for (const std::string& schedule : schedules_of(c.problem)) {
          c.schedule = schedule;
          EXPECT_TRUE(bench().try_case(c, Check::kExact));
          coverage.add(c.problem, schedule);
        }
      }
    }
  }
  for (const DataType type : kActivationTypes) coverage.expect_all({WeightType::kU4b8, type});
}

// Every number of tokens about the limits of the kernels for few, with edges that no tile shares.
TEST_F(Exactness, EveryM) {
  std::uint64_t seed = 9000;
  for (std::int64_t m = 0; m <= 65; ++m) {
    const DataType type = kActivationTypes[m % 2];
    Case c{make_problem(type, m, 100 + m % 3, 600 + 7 * m, m % 4 == 0 ? 32 : 128)};
    c.activations = testing::ActivationFill::kIntegers;
    c.scales = testing::ScaleFill::kPowersOfTwo;
    c.seed = ++seed;
    for (const std::string& schedule : schedules_of(c.problem)) {
      c.schedule = schedule;
      EXPECT_TRUE(bench().try_case(c, Check::kExact));
    }
  }
}

// An Inf or a NaN among the activations spoils its own token, as IEEE 754 has it, and no other.
TEST_F(Exactness, InfAndNanPropagate) {
  constexpr std::int64_t kN = 96;
  constexpr std::int64_t kK = 1000;
  constexpr std::int64_t kAt = 777;
  for (const DataType type : kActivationTypes) {
    const std::uint16_t infinity = type == DataType::kBf16 ? 0x7F80 : 0x7C00;
    const auto is_nan = [&](std::uint16_t x) { return (x & 0x7FFFu) > infinity; };
    for (const std::int64_t m : {1, 2, 7, 16, 30, 64, 70}) {
      Case c{make_problem(type, m, kN, kK)};
      bench().prepare(c);
      std::vector<std::uint8_t> codes(kN * kK / 2);
      require(cudaMemcpy(codes.data(), bench().qweight().data(), codes.size(), cudaMemcpyDeviceToHost), "copy");
      auto* activation = static_cast<std::uint16_t*>(bench().a().data()) + m / 2 * kK + kAt;
      std::uint16_t healthy = 0;
      require(cudaMemcpy(&healthy, activation, 2, cudaMemcpyDeviceToHost), "copy");
      for (const std::string& schedule : schedules_of(c.problem)) {
        c.schedule = schedule;
        const Plan plan = require(bench().make_plan(c));
        const auto run_with = [&](std::uint16_t value) {
          require(cudaMemcpy(activation, &value, 2, cudaMemcpyHostToDevice), "copy");
          bench().poison_output(c);
          require(bench().run_plan(plan, bench().packed()));
          const std::vector<unsigned char> bytes = bench().output();
          std::vector<std::uint16_t> d(bytes.size() / 2);
          std::memcpy(d.data(), bytes.data(), bytes.size());
          return d;
        };
        const auto before = run_with(healthy);
        for (const std::uint16_t value : {infinity, static_cast<std::uint16_t>(infinity | 1u)}) {
          const auto after = run_with(value);
          for (std::int64_t i = 0; i < m * kN; ++i) {
            const auto at = static_cast<std::size_t>(i);
            if (i / kN != m / 2) {
              ASSERT_EQ(after[at], before[at]) << schedule << " m=" << m << " element " << i;
              continue;
            }
            const std::uint8_t byte = codes[static_cast<std::size_t>((i % kN * kK + kAt) / 2)];
            const int code = kAt % 2 == 0 ? byte & 15 : byte >> 4;
            if (value != infinity || code == 8) {
              ASSERT_TRUE(is_nan(after[at])) << schedule << " m=" << m << " element " << i << ": " << after[at];
            } else {
              ASSERT_EQ(after[at], code > 8 ? infinity : infinity | 0x8000u) << schedule << " m=" << m << " " << i;
            }
          }
        }
        run_with(healthy);
      }
    }
  }
}

}  // namespace
}  // namespace machete::tests
