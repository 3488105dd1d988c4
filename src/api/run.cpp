#include <fmt/format.h>

#include <algorithm>

#include "api/memory.h"
#include "api/placed.h"
#include "api/plan_state.h"
#include "api/validate.h"
#include "machete/linear.h"
#include "reference/linear.h"

#if MACHETE_HAS_CUDA
#include "kernels/tokens/arrange.h"
#endif

namespace machete {
namespace {

Status check_place(const char* name, const void* pointer, Device device) {
  const auto where = memory::device_of(pointer);
  if (!where.ok()) return where.status();
  if (*where == device) return {};
  return {StatusCode::kInvalidArgument,
          fmt::format("{} lies on {}:{}, the plan runs on {}:{}; copy it there", name, name_of(where->backend),
                      where->ordinal, name_of(device.backend), device.ordinal)};
}

// Everything that is read beside the weight: there where the epilogue has the step, null elsewhere, apart from D.
Status check_operands(const Problem& problem, const Arguments& arguments, std::size_t alignment) {
  const Epilogue& epilogue = problem.epilogue;
  const std::size_t a_element = bytes_of(problem.a_type);
  const std::size_t element = bytes_of(problem.scale_type());
  const std::int64_t d_bytes = validate::span(problem.m, problem.d_columns(), problem.ldd, bytes_of(problem.d_type));
  const std::int64_t c_bytes = validate::span(problem.m, problem.d_columns(), problem.ldc, element);
  const struct {
    const char* name;
    bool wanted;
    const void* pointer;
    std::int64_t bytes;
    std::size_t alignment;
  } operands[] = {
      {"a", true, arguments.a, validate::span(problem.m, problem.k, problem.lda, a_element), a_element},
      {"token_scale", epilogue.token_scale, arguments.token_scale, validate::span(1, problem.m, 0, 4), 4},
      {"channel_scale", epilogue.channel_scale, arguments.channel_scale, validate::span(1, problem.n, 0, 4), 4},
      {"bias", epilogue.bias, arguments.bias, validate::span(1, problem.n, 0, element), element},
      {"residual", epilogue.residual, arguments.residual, c_bytes, element},
      {"output_scale", epilogue.output_scale, arguments.output_scale, 4, 4},
  };
  for (const auto& x : operands) {
    if (!x.wanted) {
      if (x.pointer == nullptr) continue;
      return {StatusCode::kInvalidArgument, fmt::format("{} is given, but the plan's epilogue, {}, has no such step; "
                                                        "plan with it, or pass null",
                                                        x.name, name_of(epilogue))};
    }
    const Status status = validate::pointer(x.name, x.pointer, std::max(alignment, x.alignment));
    if (!status.ok()) return status;
    const bool in_place = x.pointer == arguments.d && x.pointer == arguments.residual && epilogue.residual &&
                          problem.ldc == problem.ldd && problem.d_type == problem.scale_type();
    if (in_place) continue;
    Status lies_apart = validate::apart({x.name, x.pointer, x.bytes}, {"d", arguments.d, d_bytes});
    if (!lies_apart.ok()) return lies_apart;
  }
  return {};
}

Status check_arguments(const internal::PlanState& state, const Arguments& arguments, void* workspace,
                       std::size_t workspace_size) {
  const Problem& problem = state.problem;
  const std::size_t alignment = state.device.backend == Backend::kCuda ? 16 : 1;
  if (arguments.weight == nullptr) return {StatusCode::kInvalidArgument, "weight is null; pass a PackedWeight"};
  for (const Status& status : {validate::pointer("d", arguments.d, std::max(alignment, bytes_of(problem.d_type))),
                               validate::matches(arguments.weight->header(), problem)}) {
    if (!status.ok()) return status;
  }
  if (arguments.weight->device() != state.device) {
    return {StatusCode::kInvalidArgument,
            fmt::format("the weight lies on {}:{}, the plan runs on {}:{}; use copy_to()",
                        name_of(arguments.weight->device().backend), arguments.weight->device().ordinal,
                        name_of(state.device.backend), state.device.ordinal)};
  }
  if (Status status = check_operands(problem, arguments, alignment); !status.ok()) return status;
  if (state.workspace_size > 0) {
    const Status status = validate::pointer("workspace", workspace, memory::kAlignment);
    if (!status.ok()) return status;
    if (workspace_size < state.workspace_size) {
      return {StatusCode::kInvalidArgument,
              fmt::format("workspace of {} bytes must hold {}; allocate plan.workspace_size()", workspace_size,
                          state.workspace_size)};
    }
  }
  const PackedHeader& header = arguments.weight->header();
  if (state.device.backend == Backend::kCuda && header.permutation_bytes != 0 && !problem.act_order) {
    return {
        StatusCode::kIncompatible,
        "the weight has K in an order of its own (g_idx), for which the plan has no workspace; plan with act_order"};
  }
  return {};
}

// That everything lies on the plan's device.
Status check_places(const internal::PlanState& state, const Arguments& arguments, const void* workspace) {
  if (state.device.backend == Backend::kCpu) return {};
  const std::pair<const char*, const void*> places[] = {{"a", arguments.a},
                                                        {"d", arguments.d},
                                                        {"token_scale", arguments.token_scale},
                                                        {"channel_scale", arguments.channel_scale},
                                                        {"bias", arguments.bias},
                                                        {"residual", arguments.residual},
                                                        {"output_scale", arguments.output_scale}};
  for (const auto& [name, pointer] : places) {
    if (pointer == nullptr) continue;
    if (Status status = check_place(name, pointer, state.device); !status.ok()) return status;
  }
  return state.workspace_size > 0 ? check_place("workspace", workspace, state.device) : Status();
}

#if MACHETE_HAS_CUDA
// What the kernel gets, once its activations are arranged on the stream.
Result<kernels::Launch> arrange(const internal::PlanState& state, const Arguments& arguments, void* workspace,
                                Stream stream) {
  const Problem& problem = state.problem;
  kernels::Launch launch = {};
  launch.a = arguments.a;
  launch.lda = problem.lda;
  launch.workspace = workspace;
  launch.overlap = state.overlap;
  const std::int32_t* permutation = arguments.weight->permutation();
  if (permutation != nullptr || (state.arrange && !internal::aligned_rows(problem))) {
    void* arranged = static_cast<std::byte*>(workspace) + state.arranged_offset;
    const std::size_t bytes = bytes_of(problem.a_type);
    const Status status = memory::cuda_status(
        tokens::arrange({arguments.a, bytes, problem.lda, problem.m, problem.k, permutation, arranged}, state.overlap,
                        stream.native),
        "arranging activations");
    if (!status.ok()) return status;
    launch.a = arranged;
    launch.lda = tokens::aligned_row(problem.k, static_cast<std::int64_t>(bytes));
    // The kernel ahead is now ours, and writes no weight.
    launch.overlap = true;
  }
  launch.weights = arguments.weight->weights();
  launch.scales = arguments.weight->scales();
  launch.zero_points = arguments.weight->zero_points();
  const PackedHeader& header = arguments.weight->header();
  launch.fractional_zero_points = header.zero_bytes != 0 && header.zero_point_type != DataType::kU8;
  launch.tensor_scale = header.tensor_scale == 0 ? 1 : header.tensor_scale;
  launch.d = arguments.d;
  launch.d_type = problem.d_type;
  launch.epilogue = {
      arguments.token_scale,  arguments.channel_scale,    arguments.bias, arguments.residual, problem.ldc,
      arguments.output_scale, problem.epilogue.activation};
  launch.shape = state.shape;
  launch.m = problem.m;
  launch.ldd = problem.ldd;
  launch.fast_accumulation = problem.fast_accumulation;
  launch.stream_k = state.schedule.stream_k;
  launch.sms = state.sms;
  launch.encode_tensor_map = state.encode_tensor_map;
  return launch;
}
#endif

// `placed`: the caller knows that everything lies on the plan's device.
Status run_checked(const Plan& plan, const Arguments& arguments, void* workspace, std::size_t workspace_size,
                   Stream stream, void* timeline, bool placed) {
  if (internal::PlanAccess::state(plan) == nullptr) {
    return {StatusCode::kInvalidArgument, "the plan is empty; make one with plan()"};
  }
  const internal::PlanState& state = *internal::PlanAccess::state(plan);
  if (state.problem.m == 0) return {};
  Status status = check_arguments(state, arguments, workspace, workspace_size);
  if (status.ok() && !placed) status = check_places(state, arguments, workspace);
  if (!status.ok()) return status;
#if MACHETE_HAS_CUDA
  if (state.device.backend == Backend::kCuda) {
    const memory::CurrentDevice current(state.device);
    Result<kernels::Launch> launch = arrange(state, arguments, workspace, stream);
    if (!launch.ok()) return launch.status();
    launch->timeline = timeline;
    return memory::cuda_status(state.schedule.kernel->launch(*launch, stream.native), "launching a kernel");
  }
#else
  static_cast<void>(stream);
  static_cast<void>(timeline);
#endif
  return reference::linear(state.problem, arguments);
}

}  // namespace

#if MACHETE_HAS_CUDA
Result<kernels::Launch> internal::launch_of(const Plan& plan, const Arguments& arguments, void* workspace,
                                            std::size_t workspace_size, Stream stream) {
  const PlanState& state = *PlanAccess::state(plan);
  Status status = check_arguments(state, arguments, workspace, workspace_size);
  if (status.ok()) status = check_places(state, arguments, workspace);
  if (!status.ok()) return status;
  return arrange(state, arguments, workspace, stream);
}
#endif

Status internal::run_recorded(const Plan& plan, const Arguments& arguments, void* workspace, std::size_t workspace_size,
                              Stream stream, void* timeline) {
  return run_checked(plan, arguments, workspace, workspace_size, stream, timeline, false);
}

Status internal::run_placed(const Plan& plan, const Arguments& arguments, void* workspace, std::size_t workspace_size,
                            Stream stream) {
  return run_checked(plan, arguments, workspace, workspace_size, stream, nullptr, true);
}

Status run(const Plan& plan, const Arguments& arguments, void* workspace, std::size_t workspace_size, Stream stream) {
  return run_checked(plan, arguments, workspace, workspace_size, stream, nullptr, false);
}

}  // namespace machete
