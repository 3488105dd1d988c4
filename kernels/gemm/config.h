#pragma once

#include <cute/layout.hpp>

#include "kernels/gemm/mma.h"
#include "kernels/layout/weight_layout.h"

namespace machete::gemm {

using namespace cute;  // NOLINT(google-build-using-namespace)

/// Of scales and the output, unless said otherwise.
template <class Activation>
using ElementOf = std::conditional_t<sizeof(Activation) == 1, cutlass::bfloat16_t, Activation>;

/// Everything a GEMM kernel knows at compile time.
template <class Activation_, class Converter_, int kTileN_, int kTileM_, int kTileK_, int kStages_,
          class Element_ = ElementOf<Activation_>>
struct Config {
  using Activation = Activation_;  // and the MMA's operands
  static constexpr bool kBytes = sizeof(Activation) == 1;
  using Element = Element_;  // of scales and the output, 16 bits
  static_assert(kBytes || std::is_same_v<Element, Activation>);
  using Converter = Converter_;  // kernels/convert
  static constexpr int kTileN = kTileN_;
  static constexpr int kTileM = kTileM_;
  static constexpr int kTileK = kTileK_;
  static constexpr int kStages = kStages_;

  static constexpr int kWarpgroups = kTileN % 128 == 0 ? 2 : 3;  // that consume, each with whole rows
  static constexpr int kConsumerWarps = kWarpgroups * 4;
  static constexpr int kConsumers = kConsumerWarps * 32;
  static constexpr int kAtoms = kTileN / 64 / kWarpgroups;  // m64 instructions a warpgroup issues for a k16 step
  static constexpr int kStrips = kTileN / layout::kStripRows;
  static constexpr int kTiles = kTileK / layout::kTileK;                        // 64 k each, in a stage
  static constexpr int kSwizzleK = 128 / static_cast<int>(sizeof(Activation));  // a row of 128 bytes
  // The loop body takes two tiles, since two register fragments alternate by tile.
  static constexpr int kTilesPerStep = 2;
  static constexpr int kStagesPerStep = kTilesPerStep / kTiles;
  static_assert(kTileN % (64 * kWarpgroups) == 0 && kTileM % 16 == 0 && kTilesPerStep % kTiles == 0 &&
                kTileK % kSwizzleK == 0);

  using Sum = std::conditional_t<std::is_same_v<Activation, std::int8_t>, std::int32_t, float>;  // the MMA's
  using Mma = decltype(make_tiled_mma(mma_op<Activation, Sum, kTileM>(), Layout<Shape<Int<kWarpgroups>, _1, _1>>{}));
  // Of several instructions the accumulators would lie otherwise.
  static_assert(size<1>(typename Mma::AtomShape_MNK{}) == kTileM, "the MMA has no such number of tokens");
  static constexpr int kAccumulators = kAtoms * kTileM / 2;  // a thread

  static constexpr bool kFetchAhead = kBytes || kAccumulators <= 64;

  // Activations as TMA writes them, 128 bytes (one swizzle row) after the other.
  using ActivationLayout = decltype(tile_to_shape(
      GMMA::Layout_K_SW128_Atom<Activation>{}, Shape<Int<kTileM>, Int<kTileK>, Int<kStages>>{}));  // (BLK_M,BLK_K,PIPE)

  static constexpr int kTileBytes = layout::tile_bytes(Converter::kBits);
  static constexpr int kWeightBytes = kStrips * kTiles * kTileBytes;                 // [strip][tile][kTileBytes]
  static constexpr int kTokenBytes = kTileK * static_cast<int>(sizeof(Activation));  // a token's, in a stage
  static constexpr int kBoxes = kTokenBytes / 128;            // that TMA fills a stage's activations with
  static constexpr int kSourceStages = kTileN / 64 / kBoxes;  // which the tile's residual takes (source.cuh)
  static constexpr int kMaxGroups = kTileK / 16;              // of a stage, at group size 16
  static constexpr int kScaleBytes = kStrips * kMaxGroups * layout::kStripRows * 2;  // [strip][group][16]
  static constexpr int kZeroBytes = Converter::kZeroPoints ? kScaleBytes : 0;        // the same

  // One more warpgroup produces, with a single thread: only a warpgroup can hand its registers to the consumers.
  static constexpr int kThreads = kConsumers + 128;
  static constexpr int kProducerRegisters = 24;
  static constexpr int kConsumerRegisters = kWarpgroups == 2 ? 240 : 160;
  static_assert(128 * kProducerRegisters + kConsumers * kConsumerRegisters <= 65536);
  // Whether the main loops of coarse and small groups end in one and the same drain, which is less to compile. What
  // accumulators, two operand fragments and the words in hand (consumer.cuh) leave must suffice for it: with fewer than
  // 72, ptxas serialises the wgmma, or spills. With 72, those of 128 x 256, it takes 0.5% longer.
  static constexpr int kWordsInHand =
      (kFetchAhead ? 2 : 1) * kAtoms * (Converter::kBits + layout::kSteps * (Converter::kZeroPoints ? 2 : 1));
  static constexpr bool kOneDrain = kConsumerRegisters - kAccumulators - 2 * 16 * kAtoms - kWordsInHand >= 80;

  static constexpr int kStagingTokens = 16;  // what leaves a warpgroup at a time, in 64 features a token

  struct alignas(1024) SharedStorage {
    alignas(1024) Activation activations[cosize_v<ActivationLayout>];
    alignas(128) std::uint8_t weights[kStages][kWeightBytes];
    alignas(128) std::uint8_t scales[kStages][kScaleBytes + kZeroBytes];
    alignas(128) Element staging[kWarpgroups][2][kStagingTokens * 64];
    alignas(8) std::uint64_t full[kStages];
    alignas(8) std::uint64_t empty[kStages];
  };
  static_assert(sizeof(SharedStorage) <= 227 * 1024);
};

}  // namespace machete::gemm
