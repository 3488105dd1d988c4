#include "bench/runner.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>

#include "api/plan_state.h"
#include "bench/arena.h"
#include "bench/read_stream.h"
#include "testing/cuda_status.h"

namespace machete::bench {

using testing::cuda_status;

Status in_context(const Status& status, const std::string& context) {
  return {status.code(), context + ": " + status.message()};
}

Problem problem_of(const RotatedWeight& weight, std::int64_t m, DataType a_type, std::int64_t group_size,
                   const Epilogue& epilogue) {
  Problem problem;
  problem.m = m;
  problem.n = weight.shape().n;
  problem.k = weight.shape().k;
  problem.w_type = weight.canonical().type;
  problem.a_type = a_type;
  problem.d_type = epilogue.output_scale ? DataType::kE4m3 : weight.canonical().scale_type;
  problem.group_size = group_size;
  problem.epilogue = epilogue;
  return problem;
}

Status Runner::set_up(int device) {
  const Result<DeviceFacts> facts = select_device(device);
  if (!facts.ok()) return facts.status();
  facts_ = *facts;
  device_ = Device::cuda(device);
  cudaStream_t stream = nullptr;
  Status status = cuda_status(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "cudaStreamCreate");
  if (!status.ok()) return status;
  stream_.reset(stream);
  return {};
}

Status Runner::allocate(std::size_t bytes) {
  bytes = std::max(bytes, kReadStreamBytes);
  Status status = memory_.resize(bytes);
  if (status.code() == StatusCode::kOutOfMemory) {
    static_cast<void>(cudaGetLastError());  // told here; not for the next launch to find
    return in_context(status, fmt::format("this takes {:.1f} GiB on the device; take a smaller M or smaller weights",
                                          static_cast<double>(bytes) / (1 << 30)));
  }
  return status;
}

Result<double> Runner::settle() {
  double best = 0;
  const auto settled = std::chrono::steady_clock::now() + std::chrono::seconds(1);
  do {
    const Result<double> read = measure_read_stream(memory_.data(), kReadStreamBytes, stream_.get());
    if (!read.ok()) return read.status();
    best = std::max(best, *read);
  } while (std::chrono::steady_clock::now() < settled);
  return best;
}

Result<std::size_t> Runner::size_of(const Suite& suite, const RotatedWeight::Options& options, std::int64_t max_m,
                                    const Epilogue& epilogue) {
  Arena counting;
  const Result<Stage> stage = Stage::place(suite, options, max_m, epilogue, counting);
  if (!stage.ok()) return stage.status();
  return counting.used();
}

Result<Stage> Runner::set_stage(const Suite& suite, const RotatedWeight::Options& options, std::int64_t max_m,
                                const Epilogue& epilogue, std::size_t offset) {
  Arena arena(memory_.as<char>() + offset, memory_.size() - offset);
  Result<Stage> stage = Stage::place(suite, options, max_m, epilogue, arena);
  if (!stage.ok()) return stage.status();
  if (Status status = stage->fill(options.a_type, stream_.get()); !status.ok()) return status;
  return stage;
}

Status Runner::reserve_workspace(const std::vector<Plan>& plans) {
  std::size_t bytes = 0;
  for (const Plan& plan : plans) bytes = std::max(bytes, plan.workspace_size());
  if (bytes <= workspace_.size()) return {};
  if (Status status = cuda_status(cudaStreamSynchronize(stream_.get()), "earlier launches"); !status.ok())
    return status;
  if (Status status = workspace_.resize(bytes); !status.ok()) return status;
  return workspace_.poison(stream_.get());
}

Status Runner::launch(const Plan& plan, const RotatedWeight& weight, const Stage& stage, std::int64_t weight_copy,
                      std::int64_t slot, void* timeline) {
  const Epilogue& epilogue = plan.problem().epilogue;
  Arguments arguments = epilogue.plain() ? Arguments() : stage.operands;
  arguments.a = stage.activations[slot];
  arguments.weight = &weight.packed(weight_copy, epilogue.activation == Activation::kSwiglu);
  arguments.d = stage.outputs[slot];
  return internal::run_recorded(plan, arguments, workspace_.data(), workspace_.size(), Stream(stream_.get()), timeline);
}

Contender Runner::contender(const Plan& plan, const RotatedWeight& weight, const Stage& stage) {
  return {[this, plan = &plan, weight = &weight, stage = &stage](std::int64_t i, cudaStream_t) {
    return launch(*plan, *weight, *stage, i, i);
  }};
}

}  // namespace machete::bench
