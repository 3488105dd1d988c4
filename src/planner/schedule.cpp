#include "planner/schedule.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

namespace machete::planner {

std::string Schedule::name() const { return stream_k ? fmt::format("{}_streamk", kernel->name) : kernel->name; }

packing::Shape shape_of(const Problem& problem) {
  return packing::shape_of(problem.n, problem.k, problem.group_size, bits_of(problem.w_type),
                           problem.epilogue.activation == Activation::kSwiglu, bits_of(problem.a_type));
}

const char* refusal(const kernels::Kernel& kernel, const Problem& problem) {
  if (kernel.refusal == nullptr) return nullptr;
  return kernel.refusal(shape_of(problem), problem.m);
}

const char* refusal(const std::vector<const kernels::Kernel*>& kernels, const packing::Shape& shape,
                    std::int64_t tokens) {
  const char* first = nullptr;
  for (const kernels::Kernel* kernel : kernels) {
    const char* refused = kernel->refusal == nullptr ? nullptr : kernel->refusal(shape, tokens);
    if (refused == nullptr) return nullptr;
    if (first == nullptr) first = refused;
  }
  return first;
}

std::vector<Schedule> schedules_of(const std::vector<const kernels::Kernel*>& kernels) {
  std::vector<Schedule> schedules;
  for (const kernels::Kernel* kernel : kernels) {
    schedules.push_back({kernel, false});
    if (kernel->stream_k) schedules.push_back({kernel, true});
  }
  return schedules;
}

Result<Schedule> parse_schedule(const std::string& name, const std::vector<const kernels::Kernel*>& kernels) {
  std::vector<std::string> names;
  for (const Schedule& schedule : schedules_of(kernels)) {
    if (schedule.name() == name) return schedule;
    names.push_back(schedule.name());
  }
  return Status(StatusCode::kInvalidArgument, fmt::format("schedule '{}' does not exist for these types; there are {}",
                                                          name, fmt::join(names, ", ")));
}

}  // namespace machete::planner
