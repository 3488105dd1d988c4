#pragma once

#include <cstdint>

#include "kernels/layout/weight_layout.h"

namespace machete::decode {

/// Everything a decode kernel knows at compile time.
template <class Element_, int kTokens_, int kStrips_>
struct Config {
  using Element = Element_;                 // of activations, scales and the output
  static constexpr int kTokens = kTokens_;  // the most it serves
  static constexpr int kStrips = kStrips_;  // of 16 rows, that a CTA works on at a time
  static constexpr int kRows = kStrips * layout::kStripRows;

  static constexpr int kWarps = 8;
  static constexpr int kThreads = kWarps * 32;

  // A slot of the ring is what a warp consumes at a time: kStrips x 256 k. 4 KB and more a copy saturate memory.
  static constexpr int kTiles = 4;  // of 64 k
  static constexpr int kSlotK = kTiles * layout::kTileK;
  static constexpr int kWeightBytes = kStrips * kTiles * layout::kTileBytes;  // [strip][tile][512]

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
  int slot_bytes;  // [kWeightBytes][scales: strip, group, 16]
  int slots_per_warp;
  int planes;   // [K/256][kPlaneWords] words
  int factors;  // [K/256][kBlocks * 8] floats
  int partial;  // [2][kWarps][kTokens][kRows] floats: the warps' sums, for row tiles in turn
  int zero;     // 16 bytes that unused columns read
  int special;  // [kTokens] ints: the token has an Inf or a NaN
  int full;     // [slots] barriers
  int bytes;

  // More than half of an SM's, so that no two CTAs of a chain share an SM; as much as there is beyond that hides
  // latency.
  static constexpr int kLimit = 227 * 1024;
  static constexpr int kMaxSlots = 6;  // a warp

  constexpr static SharedLayout make(int slots_of_k, int groups_per_slot) {
    SharedLayout s = {};
    const int scale_bytes = Config::kStrips * groups_per_slot * layout::kStripRows * 2;
    s.slot_bytes = Config::kWeightBytes + (scale_bytes + 127) / 128 * 128;
    const int fixed = slots_of_k * (Config::kPlaneWords + Config::kBlocks * 8) * 4 +
                      2 * Config::kWarps * Config::kTokens * Config::kRows * 4 + 16 + 16 +
                      Config::kWarps * kMaxSlots * 8;
    s.slots_per_warp = (kLimit - fixed) / (Config::kWarps * s.slot_bytes);
    if (s.slots_per_warp > kMaxSlots) s.slots_per_warp = kMaxSlots;
    s.planes = Config::kWarps * s.slots_per_warp * s.slot_bytes;
    s.factors = s.planes + slots_of_k * Config::kPlaneWords * 4;
    s.partial = s.factors + slots_of_k * Config::kBlocks * 8 * 4;
    s.zero = s.partial + 2 * Config::kWarps * Config::kTokens * Config::kRows * 4;
    s.special = s.zero + 16;
    s.full = s.special + 16;
    s.bytes = s.full + Config::kWarps * kMaxSlots * 8;
    constexpr int kHalf = 115 * 1024;
    if (s.bytes < kHalf) s.bytes = kHalf;
    return s;
  }
};

}  // namespace machete::decode
