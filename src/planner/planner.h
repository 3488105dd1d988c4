#pragma once

#include <string>
#include <vector>

#include "planner/cost.h"
#include "planner/machine.h"
#include "planner/schedule.h"
#include "planner/table.h"

namespace machete::planner {

/// A schedule, what the model expects of it, and why it stands where it does.
struct Candidate {
  Schedule schedule;
  Estimate estimate;
  bool measured = false;  // a tuning table names it
  std::string reason;
};

/// All schedules that can serve the problem, best first: the one that a table names, then by the model's estimate.
/// Pure: same input, same output.
std::vector<Candidate> rank(const Problem& problem, const std::vector<const kernels::Kernel*>& kernels,
                            const Machine& machine, const char* measured_best);

}  // namespace machete::planner
