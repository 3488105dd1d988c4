#pragma once

#include <cstdint>

#include "kernels/layout/weight_layout.h"
#include "kernels/stream/ring_layout.h"

namespace machete::batch {

/// Everything a batch kernel knows at compile time.
template <class Element_, class Converter_, int kStrips_, int kTokens_, int kSlotK_, int kWarps_>
struct Config {
  using Element = Element_;                 // of activations, scales, the MMA and the output
  using Converter = Converter_;             // kernels/convert
  static constexpr int kStrips = kStrips_;  // of 16 rows, that a CTA works on at a time
  static constexpr int kTokens = kTokens_;
  static constexpr int kSlotK = kSlotK_;  // of the ring's slots: kStrips x kSlotK weights
  static constexpr int kWarps = kWarps_;

  // Warps take K in turns of 128, a slot or two, whatever the tile: kernels with as many warps add in the same order,
  // and give a token the same bits.
  static constexpr int kTurnK = 128;
  static constexpr int kTurnSlots = kTurnK / kSlotK;

  static constexpr int kRows = kStrips * layout::kStripRows;
  static constexpr int kThreads = kWarps * 32;
  static constexpr int kTiles = kSlotK / layout::kTileK;
  static constexpr int kOctets = kTokens / 8;  // of tokens: MMAs a strip and k16 step
  static_assert(kTokens % 8 == 0 && kSlotK % layout::kTileK == 0 && kTurnK % kSlotK == 0);

  static constexpr int kTileBytes = layout::tile_bytes(Converter::kBits);
  static constexpr int kWeightBytes = kStrips * kTiles * kTileBytes;              // [strip][tile][kTileBytes]
  static constexpr int kActivationBytes = kTiles * kTokens * layout::kTileK * 2;  // [tile][token][64], swizzled
  static constexpr int kPitch = kRows + 4;                                        // of partial sums, in floats
  // Tokens whose partial sums lie in shared memory at a time: all, where that leaves room for the ring.
  static constexpr int kRoundTokens = kWarps * kTokens * kPitch * 4 <= 40 * 1024 ? kTokens : 8;
  // What an epilogue reads is fetched ahead of a row tile's main loop, where that leaves registers for it.
  static constexpr bool kFetchAhead = kRoundTokens == kTokens && (kWarps == 8 || kStrips * Converter::kBits < 32);
  // Neighbouring columns of D that a lane takes through the steps of an epilogue: one, where all lanes then have some
  // once; else four, which are read and written together, so that the other warps may go on, and what a lane reads is
  // all fetched ahead.
  static constexpr int kEach = kRows * kTokens <= kThreads ? 1 : 4;
  static constexpr int kPartialBytes = kWarps * kRoundTokens * kPitch * 4;  // [warp][kRoundTokens][kPitch]
};

/// Where everything lies in a CTA's shared memory; sized by the group size, on the host and the device alike.
template <class Config>
struct SharedLayout {
  stream::RingLayout<Config> ring;
  int partial;  // [kWarps][kRoundTokens][kPitch] floats: the warps' sums
  int bytes;

  static constexpr int kLimit = 227 * 1024;
  static constexpr int kHalf = 115 * 1024;  // an SM then holds no second CTA of a chain
  static constexpr int kAlignment = 1024;   // of the ring, which shared memory does not promise

  constexpr static SharedLayout make(int groups_per_slot, int tokens) {
    SharedLayout s = {};
    s.ring =
        stream::RingLayout<Config>::make(kLimit - kAlignment - Config::kPartialBytes - 16, groups_per_slot, tokens);
    s.partial = s.ring.end;
    s.bytes = s.partial + Config::kPartialBytes + kAlignment;
    if (s.bytes < kHalf) s.bytes = kHalf;
    return s;
  }
};

}  // namespace machete::batch
