#pragma once

#include "kernels/gemm/config.h"

namespace machete::turns {

/// The GEMM family's, and room for the sums that a thread parks between pairs.
template <class Activation, class Converter, int kTileN, int kTileM, int kTileK, int kStages>
struct Config : gemm::Config<Activation, Converter, kTileN, kTileM, kTileK, kStages> {
  using Base = gemm::Config<Activation, Converter, kTileN, kTileM, kTileK, kStages>;
  static_assert(kTileK == 128 && Base::kAtoms == 1);

  static constexpr int kVectors = Base::kAccumulators / 4;  // of 16 bytes, a thread's sums

  struct SharedStorage : Base::SharedStorage {
    float4 total[kVectors][Base::kConsumers];  // of the pairs before
  };
  static_assert(sizeof(SharedStorage) <= 227 * 1024);
};

}  // namespace machete::turns
