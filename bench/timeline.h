#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "machete/status.h"

namespace machete::bench {

/// One kernel of a chain. launch(moments, stream) enqueues it, recording its course (kernels/timeline.h).
struct TimelineEntry {
  std::string name;
  std::function<Status(void* moments, cudaStream_t stream)> launch;
};

/// Runs a chain as a CUDA graph and prints the course of the kernels from `first` on, one a line: for each moment the
/// first, the median and the last CTA, in microseconds after the kernel ahead was done; CTAs, SMs, and SMs with more
/// than one CTA. The clock ticks every 32 ns to 1 us, as the device has it. A moment that no CTA recorded is a dash.
Status print_timeline(const std::vector<TimelineEntry>& chain, std::size_t first, cudaStream_t stream);

}  // namespace machete::bench
