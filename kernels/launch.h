#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

namespace machete::kernels {

constexpr int ceil_div(std::int64_t a, std::int64_t b) { return static_cast<int>((a + b - 1) / b); }

/// Lets a kernel use up to `shared_memory` bytes a CTA; a cudaError_t.
inline int prepare(const void* kernel, int shared_memory) {
  const cudaError_t error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_memory);
  if (error != cudaSuccess) return error;
  // Kernels that divide an SM's memory differently cannot follow each other without a pause.
  return cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout, cudaSharedmemCarveoutMaxShared);
}

struct Grid {
  int ctas;
  int threads;
  int shared_memory;  // bytes a CTA
};

/// A cudaError_t. With overlap, the kernel may start before the one ahead in the stream has finished.
template <class Params>
int launch(void (*kernel)(Params), const Params& params, const Grid& grid, bool overlap, void* stream) {
  cudaLaunchAttribute early = {};
  early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  early.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(static_cast<unsigned>(grid.ctas));
  config.blockDim = dim3(static_cast<unsigned>(grid.threads));
  config.dynamicSmemBytes = static_cast<std::size_t>(grid.shared_memory);
  config.stream = static_cast<cudaStream_t>(stream);
  config.attrs = &early;
  config.numAttrs = overlap ? 1 : 0;
  return cudaLaunchKernelEx(&config, kernel, params);
}

}  // namespace machete::kernels
