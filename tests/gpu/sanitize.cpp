#include <gtest/gtest.h>

#include <cstdint>
#include <string>

#include "tests/gpu/workbench.h"

// Small, but through every schedule, ragged at every edge: what compute-sanitizer runs (make sanitize).
namespace machete::tests {
namespace {

class Sanitize : public GpuTest {};

TEST_F(Sanitize, EverySchedule) {
  struct Shape {
    std::int64_t m;
    std::int64_t group_size;
  };
  for (const DataType type : kActivationTypes) {
    for (const auto& [m, group_size] : {Shape{2, 128}, Shape{7, 48}, Shape{70, 64}}) {  // decode needs 128
      Case c{make_problem(type, m, 140, 600, group_size)};
      c.seed = 8000 + static_cast<std::uint64_t>(m);
      for (const std::string& schedule : schedules_of(c.problem)) {
        c.schedule = schedule;
        EXPECT_TRUE(bench().try_case(c));
      }
    }
  }
}

TEST_F(Sanitize, OddStrides) {
  Case c{make_problem(DataType::kBf16, 19, 77, 333, 32)};
  c.problem.lda = 335;
  c.problem.ldd = 79;
  EXPECT_TRUE(bench().try_case(c));
}

}  // namespace
}  // namespace machete::tests
