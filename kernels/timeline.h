#pragma once

#include <cstdint>

namespace machete::kernels {

/// What a CTA of a kernel records of its own course (machete bench --timeline), in nanoseconds of the device's clock.
enum Moment {
  kStarted,
  kDependencyMet,     // what the kernel ahead writes is there
  kActivationsThere,  // and the first weights; decode: their digits
  kMultiplied,        // the main loop has ended
  kDone,
  kSm,  // not a time: the SM it ran on
  kMoments,
};

/// [CTA][kMoments], or null: nothing is recorded.
struct Timeline {
  std::uint64_t* moments;

#if defined(__CUDACC__)
  /// By one thread of the CTA.
  __device__ void mark(Moment moment) const {
    if (moments == nullptr) return;
    std::uint64_t* own = moments + std::uint64_t{blockIdx.x} * kMoments;
    asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(own[moment]));
    if (moment == kStarted) {
      std::uint32_t sm;
      asm("mov.u32 %0, %%smid;" : "=r"(sm));
      own[kSm] = sm;
    }
  }
#endif
};

}  // namespace machete::kernels
