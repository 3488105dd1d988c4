#pragma once

#include <cute/tensor.hpp>

namespace machete::gemm {

using namespace cute;  // NOLINT(google-build-using-namespace)

/// A thread's sums four at a time, as they leave it and come back.
template <class Sums>
__device__ float4 four_of(const Sums& sums, int i) {
  return make_float4(sums(4 * i), sums(4 * i + 1), sums(4 * i + 2), sums(4 * i + 3));
}
template <class Sums>
__device__ void add_four(Sums& sums, int i, float4 v) {
  sums(4 * i) += v.x;
  sums(4 * i + 1) += v.y;
  sums(4 * i + 2) += v.z;
  sums(4 * i + 3) += v.w;
}

/// How a warp hands the sums of a shared tile to the one that ends it, through the workspace: each lane's accumulators
/// as they are, 16 bytes a lane side by side, then a flag. It goes to the warp of the same rank, whose lanes hold the
/// same elements, so no other warp has a part in it.
///
/// The workspace comes with anything in it, and every launch must find its flags down. A flag is therefore up only when
/// it holds kUp, 64 bits that memory does not hold by chance (two signalling NaNs as floats, which no arithmetic
/// makes), and who has taken what was given takes it down.
template <class Config>
struct Exchange {
  static constexpr unsigned long long kUp = 0x7fa5c3d27f9b1e64;
  static constexpr int kVectors = Config::kAccumulators / 4;  // of 16 bytes, a lane

  float4* sums;               // [CTA][warp][kVectors][32]
  unsigned long long* flags;  // [CTA][warp]

  static std::size_t bytes(int ctas) {
    return static_cast<std::size_t>(ctas) * Config::kConsumerWarps *
           (kVectors * 32 * sizeof(float4) + sizeof(unsigned long long));
  }
  static Exchange in(void* workspace, int ctas) {
    auto* sums = static_cast<float4*>(workspace);
    const auto vectors = static_cast<std::size_t>(ctas) * Config::kConsumerWarps * kVectors * 32;
    return {sums, reinterpret_cast<unsigned long long*>(sums + vectors)};
  }

  template <class Accumulators>
  __device__ void give(int cta, int warp, int lane, const Accumulators& accumulators) const {
    float4* out = vectors_of(cta, warp) + lane;
#pragma unroll
    for (int i = 0; i < kVectors; ++i) __stcg(out + i * 32, four_of(accumulators, i));
    __syncwarp();
    if (lane == 0) {
      asm volatile("st.release.gpu.global.u64 [%0], %1;" ::"l"(flag(cta, warp)), "l"(kUp) : "memory");
    }
  }

  /// Adds what CTAs [first, last) have given, in this order, once they all have.
  template <class Accumulators>
  __device__ void take(int first, int last, int warp, int lane, Accumulators& accumulators) const {
    if (first == last) return;
    for (int cta = first + lane; cta < last; cta += 32) {
      unsigned long long seen = 0;
      do {
        asm volatile("ld.acquire.gpu.global.u64 %0, [%1];" : "=l"(seen) : "l"(flag(cta, warp)) : "memory");
      } while (seen != kUp);
      *flag(cta, warp) = 0;
    }
    __syncwarp();
    for (int cta = first; cta < last; ++cta) {
      const float4* in = vectors_of(cta, warp) + lane;
#pragma unroll
      for (int i = 0; i < kVectors; ++i) add_four(accumulators, i, __ldcg(in + i * 32));
    }
  }

 private:
  __device__ float4* vectors_of(int cta, int warp) const {
    return sums + (static_cast<std::size_t>(cta) * Config::kConsumerWarps + warp) * kVectors * 32;
  }
  __device__ unsigned long long* flag(int cta, int warp) const { return flags + cta * Config::kConsumerWarps + warp; }
};

}  // namespace machete::gemm
