#include "planner/planner.h"

#include <algorithm>

namespace machete::planner {

std::vector<Candidate> rank(const Problem& problem, const std::vector<const kernels::Kernel*>& kernels,
                            const Machine& machine, const char* measured_best) {
  std::vector<Candidate> candidates;
  for (const Schedule& schedule : schedules_of(kernels)) {
    if (refusal(*schedule.kernel, problem) != nullptr) continue;
    Candidate candidate;
    candidate.schedule = schedule;
    candidate.estimate = estimate(problem, schedule, machine);
    candidate.measured = measured_best != nullptr && schedule.name() == measured_best;
    candidate.reason = (candidate.measured ? "measured best for this shape; " : "") + candidate.estimate.reason();
    candidates.push_back(candidate);
  }
  std::stable_sort(candidates.begin(), candidates.end(), [](const Candidate& a, const Candidate& b) {
    if (a.measured != b.measured) return a.measured;
    return a.estimate.total_us() < b.estimate.total_us();
  });
  return candidates;
}

}  // namespace machete::planner
