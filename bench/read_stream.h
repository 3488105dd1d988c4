#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>

#include "machete/status.h"

namespace machete::bench {

constexpr std::size_t kReadStreamBytes = std::size_t{4} << 30;

/// How fast the device reads `memory` and does nothing else, in TB/s: the ceiling of every memory-bound kernel. The
/// fastest of several grids. Overwrites the memory with noise first, for equal bits flatter the memory.
Result<double> measure_read_stream(void* memory, std::size_t bytes, cudaStream_t stream);

}  // namespace machete::bench
