#pragma once

#include "kernels/gemm/exchange.cuh"
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
    for (int i = 0; i < Config::kVectors; ++i) vectors[i][thread] = gemm::four_of(sums, i);
  }

  /// sums += what is parked
  template <class Sums>
  __device__ void add_to(Sums& sums) const {
#pragma unroll
    for (int i = 0; i < Config::kVectors; ++i) gemm::add_four(sums, i, vectors[i][thread]);
  }

  /// What is parked += sums
  template <class Sums>
  __device__ void add(const Sums& sums) const {
#pragma unroll
    for (int i = 0; i < Config::kVectors; ++i) {
      float4& v = vectors[i][thread];
      const float4 s = gemm::four_of(sums, i);
      v = make_float4(v.x + s.x, v.y + s.y, v.z + s.z, v.w + s.w);
    }
  }
};

}  // namespace machete::turns
