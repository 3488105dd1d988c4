#include <gtest/gtest.h>

#include <cstdint>
#include <string>

#include "bench/suite.h"
#include "tests/gpu/workbench.h"

// Random zero-mean data, every element within its bound of the fp64 result.
namespace machete::tests {
namespace {

class Bounds : public GpuTest {};

TEST_F(Bounds, EveryScheduleAndGroupSize) {
  std::uint64_t seed = 1000;
  for (const DataType type : kActivationTypes) {
    for (const std::int64_t group_size : {-1, 16, 32, 48, 64, 96, 128, 192, 256}) {
      for (const std::int64_t m : {1, 13, 40, 64, 130, 260}) {
        Case c{make_problem(type, m, 640, 2880, group_size)};
        c.seed = ++seed;
        c.activations = m % 2 == 0 ? testing::ActivationFill::kUniform : testing::ActivationFill::kNormal;
        for (const std::string& schedule : schedules_of(c.problem)) {
          c.schedule = schedule;
          EXPECT_TRUE(bench().try_case(c));
        }
      }
    }
  }
}

// Few tokens as integer planes share an exponent: small values must survive beside large ones.
TEST_F(Bounds, OutliersAndTinyValues) {
  std::uint64_t seed = 1500;
  for (const DataType type : kActivationTypes) {
    for (const std::int64_t m : {1, 2, 6, 16, 31, 64, 100}) {
      Case c{make_problem(type, m, 512, 4096)};
      c.seed = ++seed;
      c.activations = testing::ActivationFill::kOutliers;
      for (const std::string& schedule : schedules_of(c.problem)) {
        c.schedule = schedule;
        EXPECT_TRUE(bench().try_case(c));
      }
    }
  }
}

// A group that no tile holds: longer than K, or with a partial one at its end.
TEST_F(Bounds, GroupsThatDoNotDivideK) {
  std::uint64_t seed = 2000;
  for (const DataType type : kActivationTypes) {
    for (const std::int64_t group_size : {16, 48, 64, 112, 128, 320, 1024, 4096, 100000}) {
      for (const std::int64_t k : {50, 64, 200, 1000, 1030, 4100}) {
        for (const std::int64_t m : {3, 70}) {
          Case c{make_problem(type, m, 136, k, group_size)};
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

void try_suite(Workbench& workbench, const char* name) {
  const Result<bench::Suite> suite = bench::find_suite(name);
  ASSERT_TRUE(suite.ok()) << suite.status().message();
  ASSERT_FALSE(suite->shapes.empty());
  std::uint64_t seed = 3000;
  for (const bench::Shape& shape : suite->shapes) {
    for (const DataType type : kActivationTypes) {
      for (const std::int64_t m : {1, 16, 33, 64, 200}) {
        Case c{make_problem(type, m, shape.n, shape.k)};
        c.seed = ++seed;
        EXPECT_TRUE(workbench.try_case(c)) << "suite " << name << ", " << shape.name;
      }
    }
  }
}

TEST_F(Bounds, SuiteLlama8b) { try_suite(bench(), "llama8b"); }
TEST_F(Bounds, SuiteLlama70b) { try_suite(bench(), "llama70b"); }
TEST_F(Bounds, SuiteDeepseek) { try_suite(bench(), "deepseek"); }
TEST_F(Bounds, SuiteOdd) { try_suite(bench(), "odd"); }

// Prefill: many tokens, so that a CTA takes tile after tile.
TEST_F(Bounds, ManyTokens) {
  for (const DataType type : kActivationTypes) {
    for (const std::int64_t m : {1000, 2048, 4097}) {
      Case c{make_problem(type, m, 4096, 1024)};
      c.seed = 4000 + static_cast<std::uint64_t>(m);
      for (const std::string& schedule : schedules_of(c.problem)) {
        c.schedule = schedule;
        EXPECT_TRUE(bench().try_case(c));
      }
    }
  }
}

}  // namespace
}  // namespace machete::tests
