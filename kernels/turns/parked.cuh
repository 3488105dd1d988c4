#pragma once

#include "kernels/turns/config.h"

namespace machete::turns {

/// A thread's sums in shared memory, where they wait until a pair of classes has ended.
template <class Config>
struct Parked {
  float4 (*vectors)[Config::kConsumers];
  int thread;

  template <class Sums>
  __device__ void put(const Sums& sums) const {
#pragma unroll
    for (int i = 0; i < Config::kVectors; ++i) {
      vectors[i][thread] = make_float4(sums(4 * i), sums(4 * i + 1), sums(4 * i + 2), sums(4 * i + 3));
    }
  }

  /// sums += what is parked
  template <class Sums>
  __device__ void add_to(Sums& sums) const {
#pragma unroll
    for (int i = 0; i < Config::kVectors; ++i) {
      const float4 v = vectors[i][thread];
      sums(4 * i) += v.x;
      sums(4 * i + 1) += v.y;
      sums(4 * i + 2) += v.z;
      sums(4 * i + 3) += v.w;
    }
  }

  /// What is parked += sums
  template <class Sums>
  __device__ void add(const Sums& sums) const {
#pragma unroll
    for (int i = 0; i < Config::kVectors; ++i) {
      float4& v = vectors[i][thread];
      v = make_float4(v.x + sums(4 * i), v.y + sums(4 * i + 1), v.z + sums(4 * i + 2), v.w + sums(4 * i + 3));
    }
  }
};

}  // namespace machete::turns
