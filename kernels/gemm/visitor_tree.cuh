#pragma once

/// A product whose sums go through a visitor tree of one's own: examples/visitor_tree. For code that nvcc compiles,
/// with this repository, its src/ and CUTLASS on the include path.

#include <cuda_runtime_api.h>

#include <string>

#include "api/plan_state.h"
#include "kernels/gemm/launch.cuh"

namespace machete::gemm {

/// Runs a plan with `Tree` in place of an epilogue. A tree is composed of CUTLASS's Sm90EVT, Sm90Compute and
/// Sm90AccFetch and of leaves in the manner of kernels/epilogue/visitors.cuh; it gives fp32 in, fp32 out, and its
/// root's value is rounded into D. `Config` must be that of the plan's kernel, which PlanOptions::schedule can force:
/// Config< cutlass::bfloat16_t, convert::U4b8, 128, 128, 128, 5> is that of "gemm_128x128x128" with bf16 and u4b8.
/// Arguments, workspace and errors are those of run(); also another Config, and a plan with an epilogue of its own.
template <class Config, class Tree>
Status run_with_tree(const Plan& plan, const Arguments& arguments, const typename Tree::Arguments& tree,
                     void* workspace, std::size_t workspace_size, Stream stream = {}) {
  const internal::PlanState* state = internal::PlanAccess::state(plan);
  if (state == nullptr) return {StatusCode::kInvalidArgument, "the plan is empty; make one with plan()"};
  const kernels::Kernel* kernel = state->schedule.kernel;
  const bool same =
      kernel != nullptr && kernel->family == kernels::Family::kGemm && kernel->w_type == Config::Converter::kType &&
      kernel->a_type == convert::kDataType<typename Config::Activation> && kernel->tile.n == Config::kTileN &&
      kernel->tile.m == Config::kTileM && kernel->tile.k == Config::kTileK;
  if (!same) {
    return {StatusCode::kInvalidArgument,
            "the plan's schedule " + plan.schedule() +
                " is of another kernel than the Config; force its schedule, or change it"};
  }
  if (!plan.problem().epilogue.plain()) {
    return {StatusCode::kInvalidArgument, "the plan has an epilogue, which the tree would replace; plan without"};
  }
  if (plan.problem().m == 0) return {};

  const auto status_of = [](int error) {
    return error == 0 ? Status() : Status(StatusCode::kDevice, cudaGetErrorString(static_cast<cudaError_t>(error)));
  };
  constexpr int kSharedMemory = sizeof(typename Config::SharedStorage);
  const auto* function = reinterpret_cast<const void*>(&gemm<Config, Tree>);
  if (Status status = status_of(kernels::prepare(function, kSharedMemory)); !status.ok()) return status;
  const Result<kernels::Launch> launch = internal::launch_of(plan, arguments, workspace, workspace_size, stream);
  if (!launch.ok()) return launch.status();
  const auto params = Tree::to_underlying_arguments(0, tree, nullptr);
  return status_of(launch_with<Config, Tree>(params, *launch, stream.native));
}

}  // namespace machete::gemm
