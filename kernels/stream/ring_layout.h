#pragma once

#include "kernels/layout/weight_layout.h"

namespace machete::stream {

/// Where the rings of a CTA's warps lie in its shared memory, in bytes from a multiple of 1024; each part is
/// [warp][slot][...].
template <class Config>
struct RingLayout {
  int slots;              // a warp
  int scale_bytes;        // of a slot: [strip][group][16], scales, then zero points where there are any
  int zero_points;        // where those begin
  int transaction_bytes;  // that arrive in a slot
  int activations;        // at 0, for the swizzle's sake
  int weights;
  int scales;
  int full;  // barriers
  int end;

  static constexpr int kMaxSlots = 6;  // more hide no more latency

  /// As many slots as fit into `limit` bytes.
  constexpr static RingLayout make(int limit, int groups_per_slot, int tokens) {
    RingLayout ring = {};
    ring.zero_points = Config::kStrips * groups_per_slot * layout::kStripRows * 2;
    const int scale_bytes = ring.zero_points * (Config::Converter::kZeroPoints ? 2 : 1);
    ring.scale_bytes = (scale_bytes + 127) / 128 * 128;
    ring.transaction_bytes = Config::kWeightBytes + scale_bytes + Config::kActivationBytes / Config::kTokens * tokens;
    const int slot_bytes = Config::kActivationBytes + Config::kWeightBytes + ring.scale_bytes + 8;
    ring.slots = limit / (Config::kWarps * slot_bytes);
    if (ring.slots > kMaxSlots) ring.slots = kMaxSlots;
    const int slots = Config::kWarps * ring.slots;
    ring.weights = slots * Config::kActivationBytes;
    ring.scales = ring.weights + slots * Config::kWeightBytes;
    ring.full = ring.scales + slots * ring.scale_bytes;
    ring.end = (ring.full + slots * 8 + 15) / 16 * 16;
    return ring;
  }
};

}  // namespace machete::stream
