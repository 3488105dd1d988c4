#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <type_traits>
#include <vector>

#include "bench/machine.h"
#include "bench/rotation.h"
#include "bench/stage.h"
#include "bench/suite.h"
#include "bench/timer.h"
#include "machete/linear.h"
#include "machete/status.h"
#include "testing/device_buffer.h"

namespace machete::bench {

Status in_context(const Status& status, const std::string& context);

/// The linear of a weight.
Problem problem_of(const RotatedWeight& weight, std::int64_t m, DataType a_type, std::int64_t group_size,
                   const Epilogue& epilogue);

/// Runs linears on one device: its stream, one allocation for whatever is laid out, and a workspace.
class Runner {
 public:
  /// Makes the device current.
  Status set_up(int device);

  /// Once, for the largest of what will be laid out, so that no measurement waits for an allocation.
  Status allocate(std::size_t bytes);

  /// Clocks rise only under load, and after much of it they are low for a while: reading memory for a second brings
  /// them to where they are with few tokens. TB/s, the best of that second; the memory is overwritten.
  Result<double> settle();

  /// What a stage takes of the memory.
  static Result<std::size_t> size_of(const Suite& suite, const RotatedWeight::Options& options, std::int64_t max_m,
                                     const Epilogue& epilogue);
  /// Lays it out in the memory from `offset` on, and fills it.
  Result<Stage> set_stage(const Suite& suite, const RotatedWeight::Options& options, std::int64_t max_m,
                          const Epilogue& epilogue, std::size_t offset = 0);

  /// Enough for any of the plans.
  Status reserve_workspace(const std::vector<Plan>& plans);

  Status launch(const Plan& plan, const RotatedWeight& weight, const Stage& stage, std::int64_t weight_copy,
                std::int64_t slot, void* timeline = nullptr);
  /// Repetition i reads copy i of the weight. What is named must outlive the contender.
  Contender contender(const Plan& plan, const RotatedWeight& weight, const Stage& stage);

  const DeviceFacts& facts() const { return facts_; }
  Device device() const { return device_; }
  cudaStream_t stream() const { return stream_.get(); }
  testing::DeviceBuffer& memory() { return memory_; }

 private:
  struct StreamDeleter {
    void operator()(cudaStream_t stream) const { static_cast<void>(cudaStreamDestroy(stream)); }
  };

  DeviceFacts facts_;
  Device device_;
  std::unique_ptr<std::remove_pointer_t<cudaStream_t>, StreamDeleter> stream_;
  testing::DeviceBuffer memory_;
  testing::DeviceBuffer workspace_;
};

}  // namespace machete::bench
