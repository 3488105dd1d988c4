#pragma once

#include <cute/tensor.hpp>

#include "kernels/gemm/config.h"
#include "kernels/layout/groups.h"

namespace machete::gemm {

/// Scales of a lane's two rows of each atom, which are neighbours (layout::scale_layout).
template <class Config>
struct RowScales {
  std::uint32_t pairs[Config::kAtoms];

  /// Of a group of the stage.
  __device__ void load(const typename Config::SharedStorage& shared, const layout::Groups& groups, int thread,
                       int stage, int group) {
    const auto* all = reinterpret_cast<const std::uint32_t*>(shared.scales[stage]);  // [strip][group][8]
#pragma unroll
    for (int atom = 0; atom < Config::kAtoms; ++atom) {
      const int strip = atom * Config::kConsumerWarps + thread / 32;
      pairs[atom] = all[(strip * groups.per_stage + group) * (layout::kStripRows / 2) + thread % 32 / 4];
    }
  }

  /// accumulators += sums * scales, or = where kFirst.
  template <bool kFirst = false, class Sums, class Accumulators>
  __device__ void add(const Sums& sums, Accumulators& accumulators /* ((2,2,BLK_M/8),MMA_N,1) */) const {
    using Element = typename Config::Element;
#pragma unroll
    for (int atom = 0; atom < Config::kAtoms; ++atom) {
      const float scale[2] = {convert::low_float<Element>(pairs[atom]), convert::high_float<Element>(pairs[atom])};
#pragma unroll
      for (int i = 0; i < Config::kTileM / 2; ++i) {
        float& sum = accumulators(i, atom, 0);
        const auto found = static_cast<float>(sums(i, atom, 0));
        sum = kFirst ? found * scale[i / 2 % 2] : fmaf(found, scale[i / 2 % 2], sum);
      }
    }
  }
};

/// A stage's weights, or one of kParts of its k's, as the MMA's operand A: codes in registers, which are not scaled.
template <class Config, int kParts = 1>
struct Operand {
  using Activation = typename Config::Activation;
  using Converter = typename Config::Converter;

  static constexpr int kStepK = layout::step_k(8 * sizeof(Activation));
  static constexpr int kSteps = Config::kTileK / kStepK / kParts;  // of the MMA
  static constexpr int kTileSteps = layout::kTileK / kStepK;
  static_assert(Config::kBytes || !Converter::kZeroPoints);

  std::uint32_t codes[kSteps][Config::kAtoms][4];

  __device__ void unpack(const typename Config::SharedStorage& shared, int thread, int stage, int part = 0) {
    const int first = part * kSteps;  // of the stage's
#pragma unroll
    for (int atom = 0; atom < Config::kAtoms; ++atom) {
      const int strip = atom * Config::kConsumerWarps + thread / 32;
#pragma unroll
      for (int k = 0; k < kSteps; k += kTileSteps) {
        const auto words = convert::Words<Converter::kBits>::load(
            shared.weights[stage] + (strip * Config::kTiles + (first + k) / kTileSteps) * Config::kTileBytes,
            thread % 32);
#pragma unroll
        for (int i = 0; i < kTileSteps && k + i < kSteps; ++i) {
          std::uint32_t(&out)[4] = codes[k + i][atom];
          if constexpr (Config::kBytes) {
            Converter::template decode_bytes<Activation>(words, (first + i) % kTileSteps, out);
          } else {
            Converter::template decode<typename Config::Element>(words, (first + i) % kTileSteps, {}, out);
          }
        }
      }
    }
  }

  /// Of a step of the MMA, (MMA,MMA_N).
  __device__ auto step(int k) {
    return make_tensor(recast_ptr<Activation>(&codes[k][0][0]),
                       Layout<Shape<Shape<Int<4 / sizeof(Activation)>, _2, _2>, Int<Config::kAtoms>>>{});
  }

  /// Keeps the compiler from touching what wgmma reads.
  __device__ void fence() {
#pragma unroll
    for (auto& step : codes) {
#pragma unroll
      for (auto& atom : step) {
#pragma unroll
        for (std::uint32_t& code : atom) warpgroup_fence_operand(code);
      }
    }
  }
};

}  // namespace machete::gemm
