#pragma once

#include <cstdint>

#include "kernels/layout/weight_layout.h"
#include "kernels/stream/ring_layout.h"

namespace machete::decode {

/// Everything a decode kernel knows at compile time.
template <class Element_, class Converter_, int kStrips_, int kTokens_>
struct Config {
  using Element = Element_;                 // of activations, scales and the output
  using Converter = Converter_;             // kernels/convert
  static constexpr int kStrips = kStrips_;  // of 16 rows, that a CTA works on at a time
  static constexpr int kTokens = kTokens_;  // the most it serves
  static constexpr int kRows = kStrips * layout::kStripRows;

  static constexpr int kWarps = 8;
  static constexpr int kThreads = kWarps * 32;

  // A slot of the ring is what a warp consumes at a time: kStrips x 256 k. 4 KB and more a copy saturate memory.
  static constexpr int kTiles = 4;  // of 64 k
  static constexpr int kSlotK = kTiles * layout::kTileK;
  static constexpr int kTurnSlots = 1;                                        // that a warp takes one after the other
  static constexpr int kWeightBytes = kStrips * kTiles * layout::kTileBytes;  // [strip][tile][512]
  static constexpr int kActivationBytes = 0;                                  // they have a place of their own

  // Activations as integer planes: three digits a token, each a column of the MMA's B operand.
  static constexpr int kDigits = 3;
  static constexpr int kColumns = kTokens * kDigits;
  static constexpr int kBlocks = (kColumns + 7) / 8;       // MMAs of eight columns
  static constexpr int kTileWords = kColumns * 4 * 4;      // of a tile: [column][lane of a quad][k16 step]
  static constexpr int kPlaneWords = kTiles * kTileWords;  // of 256 k
};

/// Where everything lies in a CTA's shared memory; sized by K and the group size, on the host and the device alike.
template <class Config>
struct SharedLayout {
  stream::RingLayout<Config> ring;
  int planes;   // [K/256][kPlaneWords] words
  int factors;  // [K/256][kBlocks * 8] floats
  int partial;  // [2][kWarps][kTokens][kRows] floats: the warps' sums, for row tiles in turn
  int zero;     // 16 bytes that unused columns read
  int special;  // [kTokens] ints: the token has an Inf or a NaN
  int bytes;

  // More than half of an SM's, so that no two CTAs of a chain share an SM; as much as there is beyond that hides
  // latency.
  static constexpr int kLimit = 227 * 1024;
  static constexpr int kHalf = 115 * 1024;

  constexpr static SharedLayout make(int slots_of_k, int groups_per_slot) {
    const int plane_bytes = slots_of_k * Config::kPlaneWords * 4;
    const int factor_bytes = slots_of_k * Config::kBlocks * 8 * 4;
    const int partial_bytes = 2 * Config::kWarps * Config::kTokens * Config::kRows * 4;
    SharedLayout s = {};
    s.ring =
        stream::RingLayout<Config>::make(kLimit - plane_bytes - factor_bytes - partial_bytes - 48, groups_per_slot, 0);
    s.planes = s.ring.end;
    s.factors = s.planes + plane_bytes;
    s.partial = s.factors + factor_bytes;
    s.zero = s.partial + partial_bytes;
    s.special = s.zero + 16;
    s.bytes = s.special + 16;
    if (s.bytes < kHalf) s.bytes = kHalf;
    return s;
  }
};

}  // namespace machete::decode
