#include <gtest/gtest.h>

#include <set>
#include <string>
#include <utility>

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
  // Kernels of each activation type that have run, by name.
  std::set<std::pair<DataType, std::string>> compiled;
  std::set<std::pair<DataType, std::string>> ran;
  for (const KernelInfo& kernel : list_kernels()) {
    if (kernel.backend == Backend::kCuda) compiled.insert({kernel.a_type, kernel.name});
  }
  ASSERT_FALSE(compiled.empty()) << "this build has no CUDA kernel";
  // A schedule is named after its kernel: "gemm_128x64x128_splitk4" runs "gemm_128x64x128".
  const auto kernel_of = [&compiled](DataType type, const std::string& schedule) {
    std::string longest;
    for (const auto& [a_type, kernel] : compiled) {
      const bool named = schedule == kernel || schedule.rfind(kernel + "_", 0) == 0;
      if (a_type == type && named && kernel.size() > longest.size()) longest = kernel;
    }
    return longest;
  };

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
          const std::string kernel = kernel_of(type, schedule);
          EXPECT_FALSE(kernel.empty()) << "no compiled kernel gives schedule " << schedule << " its name\n  " << c;
          ran.insert({type, kernel});
        }
      }
    }
  }
  for (const auto& [type, kernel] : compiled) {
    EXPECT_TRUE(ran.count({type, kernel}) > 0) << kernel << " of " << name_of(type) << " is compiled but never ran";
  }
}

}  // namespace
}  // namespace machete::tests
