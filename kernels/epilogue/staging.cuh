#pragma once

#include <cutlass/arch/barrier.h>

#include <cute/tensor.hpp>

namespace machete::epilogue {

using namespace cute;  // NOLINT(google-build-using-namespace)

/// From accumulators, where a lane holds two rows of two tokens, to rows of D, through shared memory laid out
/// [token][feature] in fp32.
template <class Config>
struct Staging {
  float* buffer;  // [tokens, kStagingPitch]
  int thread;     // among the consumers

  /// Writes the accumulators of tokens [first, first + kTokens) of the tile.
  template <int kTokens, class Accumulators>
  __device__ void write(const Accumulators& accumulators /* ((2,2,BLK_M/8),MMA_N,1) */, int first) const {
    const int lane = thread % 32;
    float* corner = buffer + lane % 4 * 2 * Config::kStagingPitch + thread / 32 * 16 + lane / 4;
#pragma unroll
    for (int octet = 0; octet < Config::kTileM / 8; ++octet) {
      if (octet * 8 < first || octet * 8 >= first + kTokens) continue;
#pragma unroll
      for (int atom = 0; atom < Config::kAtoms; ++atom) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
#pragma unroll
          for (int token = 0; token < 2; ++token) {
            corner[(octet * 8 - first + token) * Config::kStagingPitch + atom * 128 + half * 8] =
                accumulators(make_coord(token, half, octet), atom, _0{});
          }
        }
      }
    }
  }

  /// Calls sink(token of the tile, feature of the tile, four features) for tokens [first, first + kTokens).
  template <int kTokens, class Sink>
  __device__ void read(int first, Sink sink) const {
    constexpr int kPerToken = Config::kTileN / 4;
#pragma unroll 4
    for (int i = thread; i < kTokens * kPerToken; i += Config::kConsumers) {
      const int token = i / kPerToken;
      const int feature = i % kPerToken * 4;
      sink(first + token, feature, *reinterpret_cast<const float4*>(buffer + token * Config::kStagingPitch + feature));
    }
  }
};

/// Among the consumer warps alone; the producer goes its own way.
template <class Config>
__device__ void consumer_barrier() {
  cutlass::arch::NamedBarrier::sync(Config::kConsumers, cutlass::arch::ReservedNamedBarriers::EpilogueBarrier);
}

}  // namespace machete::epilogue
