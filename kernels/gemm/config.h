#pragma once

#include <cute/arch/mma_sm90.hpp>
#include <cute/atom/mma_atom.hpp>
#include <cute/atom/mma_traits_sm90_gmma.hpp>
#include <cute/layout.hpp>

#include "kernels/layout/weight_layout.h"

namespace machete::gemm {

using namespace cute;  // NOLINT(google-build-using-namespace)

/// Everything a GEMM kernel knows at compile time.
template <class Element_, class Converter_, int kTileN_, int kTileM_, int kTileK_, int kStages_>
struct Config {
  using Element = Element_;      // of activations, scales, the MMA and the output
  using Converter = Converter_;  // kernels/convert
  static constexpr int kTileN = kTileN_;
  static constexpr int kTileM = kTileM_;
  static constexpr int kTileK = kTileK_;
  static constexpr int kStages = kStages_;

  static constexpr int kConsumerWarps = 8;  // two warpgroups, each with whole rows
  static constexpr int kConsumers = kConsumerWarps * 32;
  static constexpr int kAtoms = kTileN / 128;  // m64 instructions a warpgroup issues for a k16 step
  static constexpr int kStrips = kTileN / layout::kStripRows;
  static constexpr int kTiles = kTileK / layout::kTileK;  // 64 k each, in a stage
  // The two register fragments alternate by tile, so the loop body spans an even number of tiles.
  static constexpr int kStagesPerStep = kTiles % 2 == 0 ? 1 : 2;
  static_assert(kTileN % 128 == 0 && kTileM % 8 == 0 && kTileK % layout::kTileK == 0);

  using Mma = decltype(make_tiled_mma(
      GMMA::rs_op_selector<Element, Element, float, Shape<Int<kTileN>, Int<kTileM>, Int<kTileK>>, GMMA::Major::K,
                           GMMA::Major::K>(),
      Layout<Shape<_2, _1, _1>>{}));

  // Activations as TMA writes them, 64 k (128 bytes, one swizzle row) after the other.
  using ActivationLayout = decltype(tile_to_shape(
      GMMA::Layout_K_SW128_Atom<Element>{}, Shape<Int<kTileM>, Int<kTileK>, Int<kStages>>{}));  // (BLK_M,BLK_K,PIPE)

  static constexpr int kWeightBytes = kStrips * kTiles * layout::kTileBytes;  // [strip][tile][512]
  static constexpr int kActivationBytes = kTileM * kTileK * 2;
  static constexpr int kMaxGroups = kTileK / 16;                                     // of a stage, at group size 16
  static constexpr int kScaleBytes = kStrips * kMaxGroups * layout::kStripRows * 2;  // [strip][group][16]

  // Rows of D pass through shared memory in fp32, some tokens at a time; the padding keeps the accumulators' writes
  // free of conflicts.
  static constexpr int kStagingPitch = kTileN + 4;
  static constexpr int kStagingTokens = kTileM < 32 ? kTileM : 32;
  static constexpr int kStagingBytes = kStagingTokens * kStagingPitch * 4;
  static constexpr int kPartialBytes = kTileM * kStagingPitch * 4;  // a whole tile, for split K

  struct alignas(1024) Pipeline {
    alignas(1024) Element activations[cosize_v<ActivationLayout>];
    alignas(128) std::uint8_t weights[kStages][kWeightBytes];
    alignas(128) std::uint8_t scales[kStages][kScaleBytes];
  };
  // A CTA with room for a second one beside it takes one tile and hides its epilogue behind its neighbour; one that
  // fills the SM takes tile after tile, its producer running ahead during the epilogue, which then needs memory of its
  // own.
  static constexpr bool kPersistent = sizeof(Pipeline) > 113 * 1024;
  static constexpr int kCtasPerSm = kPersistent ? 1 : 2;
  // One producer warp does. Where a CTA fills the SM it is made a warpgroup, since only such can hand its registers to
  // the consumers.
  static constexpr int kThreads = kConsumers + (kPersistent ? 128 : 32);
  static constexpr int kProducerRegisters = kTiles == 1 ? 40 : 56;  // its loop is unrolled over tiles
  static constexpr int kConsumerRegisters = kTiles == 1 ? 232 : 224;
  static_assert(128 * kProducerRegisters + kConsumers * kConsumerRegisters <= 65536);
  struct SharedStorage {
    union alignas(1024) {
      Pipeline pipeline;
      float partial[kPartialBytes / 4];  // split K: every load has been consumed by then
    };
    alignas(16) float staging[kPersistent ? kStagingBytes / 4 : 4];
    alignas(8) std::uint64_t full[kStages];
    alignas(8) std::uint64_t empty[kStages];
  };
  static_assert(sizeof(SharedStorage) <= (kPersistent ? 227 : 113) * 1024);
};

}  // namespace machete::gemm
