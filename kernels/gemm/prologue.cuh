#pragma once

#include <cutlass/cutlass.h>

#include "kernels/gemm/producer.cuh"
#include "kernels/timeline.h"

namespace machete::gemm {

/// What a kernel of stages begins with: its dependents, and the ring's barriers. Returns the warp's number, the same
/// for all its lanes, for a branch by roles that the compiler is to see beside the hand-over of registers.
template <class Config>
__device__ __forceinline__ int begin(typename Config::SharedStorage& shared, bool overlap,
                                     const kernels::Timeline& timeline) {
  if (overlap) asm volatile("griddepcontrol.launch_dependents;");
  if (threadIdx.x == 0) {
    timeline.mark(kernels::kStarted);
    for (int i = 0; i < Config::kStages; ++i) {
      Barrier::init(&shared.full[i], 1);
      Barrier::init(&shared.empty[i], Config::kConsumerWarps);
    }
    cutlass::arch::fence_barrier_init();
  }
  __syncthreads();
  return cutlass::canonical_warp_idx_sync();
}

}  // namespace machete::gemm
