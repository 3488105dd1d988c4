#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <memory>

#include "machete/status.h"
#include "machete/types.h"

namespace machete::bench {

/// cuBLAS on the same problem with 16-bit weights and fp32 accumulation. The library is loaded when the first object is
/// made, so that nothing else in a program that benchmarks depends on it.
class CublasBaseline {
 public:
  static constexpr std::size_t kWorkspaceBytes = std::size_t{32} << 20;

  /// `workspace`: kWorkspaceBytes on the current device, for work on `stream` alone.
  static Result<CublasBaseline> create(void* workspace, cudaStream_t stream);

  /// D = A · Wᵀ, everything contiguous and of `type`.
  Status run(DataType type, std::int64_t m, std::int64_t n, std::int64_t k, const void* a, const void* w,
             void* d) const;

 private:
  struct State;
  std::shared_ptr<const State> state_;
};

}  // namespace machete::bench
