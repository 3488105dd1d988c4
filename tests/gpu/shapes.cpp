#include <gtest/gtest.h>

#include <cstdint>
#include <string>

#include "tests/gpu/workbench.h"

// Sizes that tiles do not divide, and rows that lie apart. D's padding, all guards and NaN in A's padding are part of
// every case.
namespace machete::tests {
namespace {

class Shapes : public GpuTest {};

TEST_F(Shapes, EveryNumberOfTokensUpTo65) {
  for (const DataType type : kActivationTypes) {
    for (std::int64_t m = 0; m <= 65; ++m) {
      Case c{make_problem(type, m, 200, 576, 64)};
      c.seed = 5000 + static_cast<std::uint64_t>(m);
      for (const std::string& schedule : schedules_of(c.problem)) {
        c.schedule = schedule;
        EXPECT_TRUE(bench().try_case(c));
      }
    }
  }
}

TEST_F(Shapes, OddFeatures) {
  const std::int64_t sizes[] = {1, 2, 15, 16, 17, 63, 64, 65, 100, 127, 129, 576, 1000};
  std::uint64_t seed = 6000;
  for (const DataType type : kActivationTypes) {
    for (const std::int64_t n : sizes) {
      for (const std::int64_t k : sizes) {
        for (const std::int64_t m : {1, 17, 70}) {
          Case c{make_problem(type, m, n, k, seed % 2 == 0 ? 16 : 128)};
          c.seed = ++seed;
          for (const std::string& schedule : schedules_of(c.problem)) {
            c.schedule = schedule;
            EXPECT_TRUE(bench().try_case(c));
          }
        }
      }
    }
  }
}

TEST_F(Shapes, Strides) {
  struct Extra {
    std::int64_t a, d;  // elements between the end of a row and the next
  };
  const Extra extras[] = {{8, 0}, {0, 8}, {64, 64}, {1, 0}, {0, 1}, {3, 5}, {13, 7}, {8, 1}, {1, 8}, {1000, 1000}};
  std::uint64_t seed = 7000;
  for (const DataType type : kActivationTypes) {
    for (const std::int64_t k : {64, 576, 999, 1000}) {
      for (const std::int64_t n : {64, 127, 576}) {
        for (const std::int64_t m : {1, 2, 33, 150}) {
          for (const Extra& extra : extras) {
            Case c{make_problem(type, m, n, k, 64)};
            c.problem.lda = k + extra.a;
            c.problem.ldd = n + extra.d;
            c.seed = ++seed;
            EXPECT_TRUE(bench().try_case(c));
          }
        }
      }
    }
    for (const Extra& extra : extras) {
      Case c{make_problem(type, 70, 200, 1100, 32)};
      c.problem.lda = c.problem.k + extra.a;
      c.problem.ldd = c.problem.n + extra.d;
      c.seed = ++seed;
      for (const std::string& schedule : schedules_of(c.problem)) {
        c.schedule = schedule;
        EXPECT_TRUE(bench().try_case(c));
      }
    }
  }
}

bool has_memory(std::size_t gib) {
  std::size_t free_bytes = 0;
  std::size_t total_bytes = 0;
  require(cudaMemGetInfo(&free_bytes, &total_bytes), "cudaMemGetInfo");
  return free_bytes >= gib << 30;
}

// What 32 bits cannot count: elements between the rows of D, and of a weight.
TEST_F(Shapes, OffsetsBeyond32Bits) {
  if (!has_memory(12)) GTEST_SKIP() << "needs 12 GiB of free GPU memory";
  Case c{make_problem(DataType::kBf16, 5, 256, 256)};
  c.problem.ldd = std::int64_t{1} << 30;  // 8 GiB of D
  EXPECT_TRUE(bench().try_case(c));
  bench().d() = testing::DeviceBuffer(testing::DeviceBuffer::Guard::kZones);
}

TEST_F(Shapes, MoreThan2To31Weights) {
  if (!has_memory(6)) GTEST_SKIP() << "needs 6 GiB of free GPU memory";
  Case c{make_problem(DataType::kBf16, 3, 65536 + 64, 32768 + 64)};
  EXPECT_TRUE(bench().try_case(c));
}

}  // namespace
}  // namespace machete::tests
