#include <fmt/format.h>

#include <algorithm>
#include <iterator>

#include "api/memory.h"
#include "api/plan_state.h"
#include "api/validate.h"
#include "machete/linear.h"
#include "planner/planner.h"
#include "registry/registry.h"

#if MACHETE_HAS_CUDA
#include "kernels/tokens/arrange.h"
#endif

namespace machete {
namespace {

constexpr const char* kCpuSchedule = "cpu";

// Kernels with eight warps a CTA exist for every number of tokens that batch invariance promises.
constexpr int kInvariantOrder = 8;
constexpr std::int64_t kInvariantTokens = 64;

Result<std::vector<const kernels::Kernel*>> kernels_for(const Problem& problem, const PlanOptions& options) {
  auto kernels = registry::matching(problem.w_type, problem.a_type, problem.scale_type());
  const auto leave_out = [&kernels](auto unfit) {
    kernels.erase(std::remove_if(kernels.begin(), kernels.end(), unfit), kernels.end());
  };
  if (!problem.epilogue.plain() || problem.d_type != problem.scale_type()) {
    leave_out([](const kernels::Kernel* kernel) { return !kernel->epilogues; });
  }
  if (!problem.fast_accumulation) leave_out([](const kernels::Kernel* kernel) { return kernel->fast_only; });
  if (!options.batch_invariant) return kernels;
  if (problem.m > kInvariantTokens) {
    return Status(StatusCode::kUnsupported,
                  fmt::format("M={} with batch_invariant, which serves up to {} tokens; split M, or plan without it",
                              problem.m, kInvariantTokens));
  }
  leave_out([](const kernels::Kernel* kernel) { return kernel->order != kInvariantOrder; });
  return kernels;
}

std::vector<planner::Candidate> rank_on(const Problem& problem, const memory::Gpu& gpu,
                                        const std::vector<const kernels::Kernel*>& kernels,
                                        const PlanOptions& options) {
  planner::Machine machine;
  machine.sms = gpu.sms;
  auto ranked =
      planner::rank(problem, kernels, machine, planner::look_up(planner::tables(), gpu.name, problem, options.overlap));
  // The cost model is fitted to the other families: by it alone none of these is chosen where no order binds the plan.
  if (!options.batch_invariant) {
    std::stable_partition(ranked.begin(), ranked.end(), [](const planner::Candidate& candidate) {
      return candidate.measured || candidate.schedule.kernel->family != kernels::Family::kTurns;
    });
  }
  return ranked;
}

bool needs_arranging(const Problem& problem, const planner::Schedule& schedule) {
  return problem.act_order || (schedule.kernel->aligned_rows && !internal::aligned_rows(problem));
}

/// What run() needs besides its arguments: first what the kernel does, then the arranged activations.
struct Workspace {
  std::size_t kernel = 0;
  std::size_t arranged = 0;
  std::size_t size() const { return kernel + arranged; }
};

Workspace workspace_of(const Problem& problem, const planner::Schedule& schedule, int sms) {
  Workspace workspace;
#if MACHETE_HAS_CUDA
  if (schedule.kernel->workspace != nullptr) {
    workspace.kernel = schedule.kernel->workspace(planner::shape_of(problem), std::max<std::int64_t>(problem.m, 1), sms,
                                                  schedule.stream_k);
    workspace.kernel = memory::padded(workspace.kernel);
  }
  if (needs_arranging(problem, schedule)) {
    const auto bytes = static_cast<std::int64_t>(bytes_of(problem.a_type));
    workspace.arranged = static_cast<std::size_t>(problem.m * tokens::aligned_row(problem.k, bytes) * bytes);
  }
#else
  static_cast<void>(problem);
  static_cast<void>(schedule);
  static_cast<void>(sms);
#endif
  return workspace;
}

// Tiles, and the steps of K in those that CTAs share, are counted in ints.
Status check_grid(const Problem& problem, const planner::Schedule& schedule) {
  const auto& tile = schedule.kernel->tile;
  const std::int64_t tiles = ((problem.n + tile.n - 1) / tile.n) * ((problem.m + tile.m - 1) / tile.m);
  if (tiles < (std::int64_t{1} << 31) - 65536) return {};
  return {StatusCode::kUnsupported, fmt::format("M={} times N={} makes {} tiles, of which a launch holds 2^31; split M",
                                                problem.m, problem.n, tiles)};
}

// What a CUDA kernel does with its sums.
Status check_store(const Problem& problem) {
  if (problem.d_type == problem.scale_type() || bits_of(problem.d_type) != 16) return {};
  return {StatusCode::kUnsupported,
          fmt::format("d_type={} must equal a_type={} or be f32 or e4m3 on CUDA; convert the output, or take a_type={}",
                      name_of(problem.d_type), name_of(problem.a_type), name_of(problem.d_type))};
}

Status plan_cuda(const PlanOptions& options, internal::PlanState* state) {
  const std::string& forced = options.schedule;
  const Problem& problem = state->problem;
  if (Status status = check_store(problem); !status.ok()) return status;
  const auto found = kernels_for(problem, options);
  if (!found.ok()) return found.status();
  const auto& kernels = *found;
  if (kernels.empty()) {
    return {StatusCode::kUnsupported,
            fmt::format("this build has no CUDA kernel for {} weights with {} activations and scales of {}{}; `machete "
                        "list` shows what it has, MACHETE_INSTANCES=all builds them all",
                        name_of(problem.w_type), name_of(problem.a_type), name_of(problem.scale_type()),
                        options.batch_invariant ? " and batch_invariant" : "")};
  }
  const auto gpu = memory::describe(state->device.ordinal);
  if (!gpu.ok()) return gpu.status();
  if (forced.empty()) {
    const auto ranked = rank_on(problem, *gpu, kernels, options);
    if (ranked.empty()) {
      const char* remedy = options.batch_invariant        ? "plan without batch_invariant"
                           : bits_of(problem.a_type) == 8 ? "take 16-bit activations, or requantise with other groups"
                                                          : "MACHETE_INSTANCES=all builds more";
      return {StatusCode::kUnsupported,
              fmt::format("no kernel serves M={}, N={}, K={}, group_size={} with a_type={}: {}; {}", problem.m,
                          problem.n, problem.k, problem.group_size, name_of(problem.a_type),
                          planner::refusal(kernels, state->shape, problem.m), remedy)};
    }
    state->schedule = ranked.front().schedule;
  } else {
    const auto schedule = planner::parse_schedule(forced, kernels);
    if (!schedule.ok()) return schedule.status();
    const char* refused = planner::refusal(*schedule->kernel, problem);
    if (refused != nullptr) {
      return {StatusCode::kUnsupported,
              fmt::format("schedule '{}' does not serve M={}, N={}, K={}, group_size={}: {}; list_schedules() "
                          "gives those that do",
                          forced, problem.m, problem.n, problem.k, problem.group_size, refused)};
    }
    state->schedule = *schedule;
  }
  Status status = check_grid(problem, state->schedule);
  if (!status.ok()) return status;
  const auto encoder = memory::tensor_map_encoder();
  if (!encoder.ok()) return encoder.status();
  const memory::CurrentDevice current(state->device);
  status = memory::cuda_status(state->schedule.kernel->prepare(), "preparing a kernel");
  if (!status.ok()) return status;
#if MACHETE_HAS_CUDA
  if (needs_arranging(problem, state->schedule)) {
    status = memory::cuda_status(tokens::prepare_arrange(), "preparing a kernel");
    if (!status.ok()) return status;
  }
#endif

  state->encode_tensor_map = *encoder;
  state->sms = gpu->sms;
  state->arrange = needs_arranging(problem, state->schedule);
  state->overlap = options.overlap;
  const Workspace workspace = workspace_of(problem, state->schedule, state->sms);
  state->arranged_offset = workspace.kernel;
  state->workspace_size = workspace.size();
  state->schedule_name = state->schedule.name();
  return {};
}

// The group sizes that a kernel is asked about.
constexpr std::int64_t kGroupSizes[] = {-1, 16, 32, 48, 64, 96, 128, 256};

// Of a kernel under the name of a type that it serves.
KernelInfo describe(const kernels::Kernel& kernel, WeightType w_type) {
  KernelInfo info;
  info.name = kernel.name;
  info.backend = Backend::kCuda;
  info.w_type = w_type;
  info.a_type = kernel.a_type;
  info.scale_type = kernel.scale_type;
  info.max_m = kernel.family == kernels::Family::kGemm ? 0 : kernel.tile.m;
  for (const std::int64_t size : kGroupSizes) {
    if (kernel.refusal(packing::shape_of(4096, 4096, size, bits_of(w_type), false, bits_of(kernel.a_type)), 1) ==
        nullptr)
      info.group_sizes.push_back(size);
  }
  info.epilogues = kernel.epilogues;
  info.registers = memory::registers_of(kernel.function);
  info.shared_memory = kernel.shared_memory(packing::shape_of(4096, 4096, 128, bits_of(w_type)));
  return info;
}

}  // namespace

const Problem& Plan::problem() const { return state_->problem; }
Device Plan::device() const { return state_->device; }
const std::string& Plan::schedule() const { return state_->schedule_name; }
std::size_t Plan::workspace_size() const { return state_->workspace_size; }

Result<Plan> plan(const Problem& problem, const PlanOptions& options) {
  const auto valid = validate::problem(problem);
  if (!valid.ok()) return valid.status();
  Status status = memory::check_device(options.device);
  if (!status.ok()) return status;

  auto state = std::make_shared<internal::PlanState>();
  state->problem = *valid;
  state->device = options.device;
  state->shape = planner::shape_of(*valid);
  if (options.device.backend == Backend::kCuda) {
    status = plan_cuda(options, state.get());
    if (!status.ok()) return status;
  } else {
    if (!options.schedule.empty() && options.schedule != kCpuSchedule) {
      return Status(StatusCode::kInvalidArgument, fmt::format("schedule '{}' does not exist on the CPU; there is '{}'",
                                                              options.schedule, kCpuSchedule));
    }
    state->schedule_name = kCpuSchedule;
  }
  Plan result;
  result.state_ = std::move(state);
  return result;
}

Result<std::vector<ScheduleChoice>> list_schedules(const Problem& problem, const PlanOptions& options) {
  const auto valid = validate::problem(problem);
  if (!valid.ok()) return valid.status();
  const Status status = memory::check_device(options.device);
  if (!status.ok()) return status;
  if (options.device.backend == Backend::kCpu) {
    return std::vector<ScheduleChoice>{{kCpuSchedule, 0, 0, "the only schedule of the CPU backend"}};
  }
  if (Status store = check_store(*valid); !store.ok()) return store;
  const auto gpu = memory::describe(options.device.ordinal);
  if (!gpu.ok()) return gpu.status();
  const auto kernels = kernels_for(*valid, options);
  if (!kernels.ok()) return kernels.status();
  std::vector<ScheduleChoice> choices;
  for (const auto& candidate : rank_on(*valid, *gpu, *kernels, options)) {
    if (!check_grid(*valid, candidate.schedule).ok()) continue;
    choices.push_back({candidate.schedule.name(), candidate.estimate.total_us(),
                       workspace_of(*valid, candidate.schedule, gpu->sms).size(), candidate.reason});
  }
  return choices;
}

std::vector<KernelInfo> list_kernels() {
  constexpr DataType kActivationTypes[] = {DataType::kBf16, DataType::kF16, DataType::kS8, DataType::kE4m3};
  std::vector<KernelInfo> kernels;
  for (const WeightType w_type : weight_types()) {
    for (const DataType a_type : kActivationTypes) {
      if (!validate::activation_type(a_type, w_type).ok()) continue;
      KernelInfo info;
      info.name = kCpuSchedule;
      info.w_type = w_type;
      info.a_type = a_type;
      if (bits_of(a_type) == 16) info.scale_type = a_type;
      info.group_sizes.assign(std::begin(kGroupSizes), std::end(kGroupSizes));
      kernels.push_back(info);
    }
  }
  for (const WeightType w_type : weight_types()) {
    for (const DataType a_type : kActivationTypes) {
      for (const kernels::Kernel* kernel : registry::matching(w_type, a_type)) {
        kernels.push_back(describe(*kernel, w_type));
      }
    }
  }
  return kernels;
}

}  // namespace machete
