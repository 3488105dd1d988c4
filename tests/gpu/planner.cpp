#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

#include "bench/suite.h"
#include "bench/timer.h"
#include "tests/gpu/workbench.h"

// What the planner picks, against a sweep of every schedule on the GPU at hand.
namespace machete::tests {
namespace {

class PlannerChoice : public GpuTest {};

// Weights stay in L2 here where they fit, unlike in the benchmark the tables come from, and clocks vary from run to
// run: hence a margin of its own besides the 5% that the tables promise.
TEST_F(PlannerChoice, IsNearTheBestOfTheSweep) {
  constexpr double kPromised = 1.05;
  constexpr double kNoiseUs = 1.0;
  const Result<bench::Suite> suite = bench::find_suite("llama8b");
  ASSERT_TRUE(suite.ok());
  for (const bench::Shape& shape : suite->shapes) {
    for (const std::int64_t m : {1, 4, 16, 32, 64}) {
      Case c{make_problem(DataType::kBf16, m, shape.n, shape.k)};
      bench().prepare(c);
      bench().poison_output(c);
      std::vector<Plan> plans = {require(bench().make_plan(c))};
      const std::string chosen = plans.front().schedule();
      for (const std::string& schedule : schedules_of(c.problem)) {
        if (schedule == chosen) continue;
        c.schedule = schedule;
        plans.push_back(require(bench().make_plan(c)));
      }
      testing::DeviceBuffer workspace;
      for (const Plan& plan : plans) {
        if (plan.workspace_size() > workspace.size()) require(workspace.resize(plan.workspace_size()));
      }
      std::vector<bench::Contender> contenders;
      for (const Plan& plan : plans) {
        contenders.push_back({[&](std::int64_t, cudaStream_t stream) {
          return run(plan, bench().arguments(), workspace.data(), workspace.size(), stream);
        }});
      }
      const std::vector<double> us = require(bench::time_in_turn(contenders, bench().stream(), 3));
      const auto best = std::min_element(us.begin(), us.end());
      EXPECT_LE(us.front(), *best * kPromised + kNoiseUs)
          << shape.name << " m=" << m << ": " << chosen << ", where "
          << plans[static_cast<std::size_t>(best - us.begin())].schedule() << " takes " << *best << " us";
    }
  }
}

}  // namespace
}  // namespace machete::tests
