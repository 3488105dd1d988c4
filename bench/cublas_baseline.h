#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <memory>

#include "machete/status.h"
#include "machete/types.h"

namespace machete::bench {

/// cuBLAS on the same problem with dense weights of the activations' type: 16 bits, with fp32 accumulation; e4m3, by
/// cuBLASLt with one scale a tensor and its fast accumulation, into bf16; s8, into int32. The library is loaded when
/// the first object is made, so that nothing else in a program that benchmarks depends on it.
class CublasBaseline {
 public:
  static constexpr std::size_t kWorkspaceBytes = std::size_t{32} << 20;

  /// `workspace`: kWorkspaceBytes on the current device, for work on `stream` alone.
  static Result<CublasBaseline> create(void* workspace, cudaStream_t stream);

  /// D = A · Wᵀ, everything contiguous; A and W of `type`, D of output_bytes() an element.
  Status run(DataType type, std::int64_t m, std::int64_t n, std::int64_t k, const void* a, const void* w,
             void* d) const;

  static std::size_t output_bytes(DataType type) { return type == DataType::kS8 ? 4 : 2; }

 private:
  struct State;
  std::shared_ptr<const State> state_;
};

}  // namespace machete::bench
