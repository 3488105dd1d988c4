#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <vector>

#include "machete/problem.h"
#include "machete/types.h"
#include "machete/weight.h"

namespace machete {

struct PlanOptions {
  Device device = default_device();
  std::string schedule;  // force this one; empty lets the planner choose
  // Programmatic dependent launch (CUDA): the kernel may start while the one ahead in the stream still runs. It fetches
  // weights meanwhile and waits before it reads activations or writes anything; so the kernel ahead may write the
  // activations, but not the weight. Same bits as without.
  bool overlap = false;
  // Of M <= 64 (CUDA): a token's result has the same bits whatever M and its place among the tokens, under every plan
  // with this option for the same N, K, types and group size. docs/design-notes.md says what it costs.
  bool batch_invariant = false;
};

namespace internal {
struct PlanState;
struct PlanAccess;
}  // namespace internal

/// A decision for one problem on one device: which schedule runs, and how. Immutable and cheap to copy; may be run from
/// any number of threads and streams at once, each run with its own workspace and output.
class Plan {
 public:
  const Problem& problem() const;
  Device device() const;
  const std::string& schedule() const;  // e.g. "gemm_128x64x128_streamk"
  std::size_t workspace_size() const;   // bytes; may be 0

 private:
  friend Result<Plan> plan(const Problem&, const PlanOptions&);
  friend struct internal::PlanAccess;
  std::shared_ptr<const internal::PlanState> state_;
};

/// Pointers of one run, all on the plan's device, 16-byte aligned (CUDA) or element aligned (CPU). D overlaps nothing
/// that is read, but may be the residual itself, if their strides and types are the same.
struct Arguments {
  const void* a = nullptr;               // [M, K] of a_type, rows lda apart
  const PackedWeight* weight = nullptr;  // of the plan's N, K, types and group size
  void* d = nullptr;                     // [M, d_columns()] of d_type, rows ldd apart; nothing else is written

  // What the plan's epilogue reads; null where it has no such step.
  const float* token_scale = nullptr;    // [M]
  const float* channel_scale = nullptr;  // [N]
  const void* bias = nullptr;            // [N] of the problem's scale_type()
  const void* residual = nullptr;        // [M, d_columns()] of scale_type(), rows ldc apart
  const float* output_scale = nullptr;   // one number
};

/// Validates the problem and chooses a schedule. Errors: sizes, strides, types or group sizes that break their rule; a
/// device that is absent or of another architecture; a forced schedule that does not exist or does not serve the
/// problem.
Result<Plan> plan(const Problem& problem, const PlanOptions& options = {});

/// Runs the plan: on `stream` and asynchronously for CUDA, before returning on the CPU. Allocates nothing, reads no
/// globals, compiles nothing, is safe under CUDA graph capture. `workspace` lies on the plan's device, 128-byte
/// aligned, with any contents, and is in use until the run has finished. Bad arguments get their error before anything
/// is launched or written.
Status run(const Plan& plan, const Arguments& arguments, void* workspace, std::size_t workspace_size,
           Stream stream = {});

/// Every schedule that can serve the problem under the options (of which `schedule` is ignored), best first by the
/// planner's estimate.
struct ScheduleChoice {
  std::string name;
  double estimate_us = 0;  // by the cost model
  std::size_t workspace_size = 0;
  std::string reason;  // what bounds it, in words
};
Result<std::vector<ScheduleChoice>> list_schedules(const Problem& problem, const PlanOptions& options = {});

/// Every kernel compiled into this build.
struct KernelInfo {
  std::string name;  // e.g. "gemm_128x64x128"
  Backend backend = Backend::kCpu;
  WeightType w_type = WeightType::kU4b8;
  DataType a_type = DataType::kBf16;
  DataType scale_type = DataType::kBf16;  // Problem::scale_type() of what it serves; on the CPU any
  std::int64_t max_m = 0;                 // the most tokens it serves; 0: any number
  std::vector<std::int64_t>
      group_sizes;        // that it serves, of -1, 16, 32, 48, 64, 96, 128, 256 (4096 x 4096, one token)
  bool epilogues = true;  // serves the named epilogues, and outputs of f32 and e4m3
  int registers = 0;      // a thread; 0 for the CPU, or where no GPU is at hand to ask
  int shared_memory = 0;  // bytes a CTA; where it depends on the weight, of one 4096 x 4096 with group_size 128
};
std::vector<KernelInfo> list_kernels();

}  // namespace machete
