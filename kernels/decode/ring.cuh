#pragma once

#include <cutlass/arch/barrier.h>
#include <cutlass/fast_math.h>

#include <cute/arch/copy_sm90_tma.hpp>

#include "kernels/decode/config.h"
#include "kernels/gemm/group_cursor.h"

namespace machete::decode {

using Barrier = cutlass::arch::ClusterBarrier;
using TransactionBarrier = cutlass::arch::ClusterTransactionBarrier;

struct TensorMaps {
  CUtensorMap weights;  // (K/64*64, N/16) of 8 bytes, box (256, kStrips)
  CUtensorMap scales;   // (16, groups, N/16) of 16 bit, box (16, groups a slot, kStrips)
};

/// Scale groups along K, by tile of 64 k.
struct GroupIndex {
  gemm::Groups groups;
  cutlass::FastDivmod by_tiles_per_group;  // 1 where groups are fine

  CUTE_HOST_DEVICE int group_of(int tile) const {
    return groups.fine() ? tile * groups.groups_per_tile : tile / by_tiles_per_group;
  }
};

/// What a warp works through: every kWarps-th slot of its CTA's row tiles, one after the other along K, then the next
/// row tile.
template <class Config>
struct SlotCursor {
  int row_tile;
  int slot;  // of K

  __device__ void advance(int slots_of_k) {
    slot += Config::kWarps;
#pragma unroll 1
    while (slot >= slots_of_k) {
      slot -= slots_of_k;
      ++row_tile;
    }
  }
};

/// A warp's own ring: it fetches for itself and consumes in order, so it needs neither a producer nor empty barriers,
/// and never waits for other warps.
template <class Config>
struct Ring {
  const TensorMaps& maps;
  const GroupIndex& groups;
  std::uint8_t* slots;  // [slots_per_warp][slot_bytes], this warp's
  std::uint64_t* full;  // [slots_per_warp], this warp's
  int slot_bytes;
  int slots_per_warp;
  int slots_of_k;
  int end;                  // row tiles of the CTA end here
  SlotCursor<Config> next;  // to fetch
  int place = 0;            // to consume
  std::uint32_t phase = 0;

  /// Fetches the next slot into `where`; by one lane.
  __device__ void fetch(int where) {
    if (next.row_tile >= end) return;
    const auto hint = static_cast<std::uint64_t>(cute::TMA::CacheHintSm90::EVICT_FIRST);
    std::uint8_t* slot = slots + where * slot_bytes;
    std::uint64_t* barrier = full + where;
    TransactionBarrier::arrive_and_expect_tx(
        barrier, Config::kWeightBytes + Config::kStrips * groups.groups.per_stage * layout::kStripRows * 2);
    cute::SM90_TMA_LOAD_2D::copy(&maps.weights, barrier, hint, slot, next.slot * Config::kSlotK,
                                 next.row_tile * Config::kStrips);
    cute::SM90_TMA_LOAD_3D::copy(&maps.scales, barrier, hint, slot + Config::kWeightBytes, 0,
                                 groups.group_of(next.slot * Config::kTiles), next.row_tile * Config::kStrips);
    next.advance(slots_of_k);
  }

  __device__ const std::uint8_t* wait() const {
    Barrier::wait(full + place, phase);
    return slots + place * slot_bytes;
  }

  /// The slot in hand has been read by every lane: fetch another into its place.
  __device__ void release() {
    __syncwarp();
    if (threadIdx.x % 32 == 0) fetch(place);
    if (++place == slots_per_warp) {
      place = 0;
      phase ^= 1;
    }
  }
};

}  // namespace machete::decode
