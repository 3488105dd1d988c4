#pragma once

#include <cstddef>
#include <string>

#include "kernels/kernel.h"
#include "kernels/prepack/shape.h"
#include "machete/linear.h"
#include "planner/schedule.h"

namespace machete::internal {

/// Everything `run` needs, decided beforehand.
struct PlanState {
  Problem problem;  // strides filled in
  Device device;
  std::string schedule_name;
  std::size_t workspace_size = 0;
  packing::Shape shape;

  // CUDA only
  planner::Schedule schedule;
  int sms = 0;                      // of the device
  bool overlap = false;             // PlanOptions::overlap
  bool arrange = false;             // the activations may have to be copied into the workspace first
  std::size_t arranged_offset = 0;  // where to; what lies before is the kernel's
  void* encode_tensor_map = nullptr;
};

/// Whether the rows of A start on 16 bytes, as TMA wants them.
inline bool aligned_rows(const Problem& problem) {
  return problem.lda * static_cast<std::int64_t>(bytes_of(problem.a_type)) % 16 == 0;
}

struct PlanAccess {
  static const PlanState* state(const Plan& plan) { return plan.state_.get(); }
};

#if MACHETE_HAS_CUDA
/// What run() launches a plan's kernel with, on the current device, once its checks have passed and what must go before
/// is on the stream.
Result<kernels::Launch> launch_of(const Plan& plan, const Arguments& arguments, void* workspace,
                                  std::size_t workspace_size, Stream stream);
#endif

/// run(), with the kernel recording its course into `timeline` (kernels/timeline.h), device memory or null.
Status run_recorded(const Plan& plan, const Arguments& arguments, void* workspace, std::size_t workspace_size,
                    Stream stream, void* timeline);

}  // namespace machete::internal
