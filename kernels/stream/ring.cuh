#pragma once

#include <cutlass/arch/barrier.h>

#include <cute/arch/copy_sm90_desc.hpp>
#include <cute/arch/copy_sm90_tma.hpp>

#include "kernels/layout/groups.h"
#include "kernels/stream/ring_layout.h"
#include "kernels/stream/row_tiles.h"

namespace machete::stream {

using Barrier = cutlass::arch::ClusterBarrier;
using TransactionBarrier = cutlass::arch::ClusterTransactionBarrier;

struct TensorMaps {
  CUtensorMap weights;  // (K/64*64, N/16) of 8 or 16 bytes, box (kSlotK, kStrips)
  CUtensorMap scales;   // (groups*16, N/16) of 16 bit, box (groups a slot * 16, kStrips); with zero points,
                        // where the weights have them: (..., 2), box (..., 2)
  // (K, M) of 16 bit, box (64, tokens), 128-byte swizzle; only where slots hold activations. The box has the tokens
  // there are: zeros beyond M would cost as much as tokens, and what is in their place meets other columns of D.
  CUtensorMap activations;
};

/// A warp's own ring: it fetches for itself and consumes in order, so it needs neither a producer nor empty barriers,
/// and never waits for other warps. All lanes call every member, which keeps addresses uniform; one of them issues.
template <class Config>
class Ring {
 public:
  __device__ Ring(const TensorMaps& maps, const layout::Groups& groups, const RingLayout<Config>& layout,
                  std::uint8_t* shared, int warp, int slots_of_k, int end, SlotCursor<Config> first)
      : maps_(maps),
        groups_(groups),
        activations_(shared + layout.activations + warp * layout.slots * Config::kActivationBytes),
        weights_(shared + layout.weights + warp * layout.slots * Config::kWeightBytes),
        scales_(shared + layout.scales + warp * layout.slots * layout.scale_bytes),
        full_(reinterpret_cast<std::uint64_t*>(shared + layout.full) + warp * layout.slots),
        scale_bytes_(layout.scale_bytes),
        zero_points_(layout.zero_points),
        transaction_bytes_(layout.transaction_bytes),
        slots_(layout.slots),
        slots_of_k_(slots_of_k),
        end_(end),
        next_(first) {}

  __device__ void initialise() const {
    if (cute::elect_one_sync()) {
#pragma unroll 1
      for (int i = 0; i < slots_; ++i) Barrier::init(full_ + i, 1);
      cutlass::arch::fence_barrier_init();
      // First used behind the dependency wait, where every step counts.
      if (Config::kActivationBytes > 0) cute::prefetch_tma_descriptor(&maps_.activations);
    }
    __syncwarp();
  }

  /// The weights of the first `count` slots, which no kernel ahead in the stream writes.
  __device__ void prefetch_weights(int count) const {
    SlotCursor<Config> from = next_;
#pragma unroll 1
    for (int i = 0; i < count; ++i) {
      fetch_weights(i, from);
      from.advance(slots_of_k_);
    }
  }
  /// The rest of the ring, now that the activations are there.
  __device__ void fill(int prefetched) {
#pragma unroll 1
    for (int i = 0; i < slots_; ++i) {
      if (i >= prefetched) fetch_weights(i, next_);
      fetch_activations(i, next_);
      next_.advance(slots_of_k_);
    }
  }

  /// Until the slot in hand is there.
  __device__ void wait() const { Barrier::wait(full_ + place_, phase_); }
  __device__ const std::uint8_t* activations() const { return activations_ + place_ * Config::kActivationBytes; }
  __device__ const std::uint8_t* weights() const { return weights_ + place_ * Config::kWeightBytes; }
  __device__ const std::uint8_t* scales() const { return scales_ + place_ * scale_bytes_; }
  __device__ const std::uint8_t* zero_points() const { return scales() + zero_points_; }

  /// The slot in hand has been read by every lane: fetch another into its place.
  __device__ void release() {
    __syncwarp();
    fetch_weights(place_, next_);
    fetch_activations(place_, next_);
    next_.advance(slots_of_k_);
    if (++place_ == slots_) {
      place_ = 0;
      phase_ ^= 1;
    }
  }

 private:
  static constexpr auto kOnce = static_cast<std::uint64_t>(cute::TMA::CacheHintSm90::EVICT_FIRST);
  static constexpr auto kShared = static_cast<std::uint64_t>(cute::TMA::CacheHintSm90::EVICT_LAST);

  __device__ void fetch_weights(int place, SlotCursor<Config> from) const {
    if (from.row_tile >= end_) return;
    const int group = groups_.group_of(from.slot * Config::kTiles);
    if (cute::elect_one_sync()) {
      std::uint64_t* barrier = full_ + place;
      TransactionBarrier::arrive_and_expect_tx(barrier, transaction_bytes_);
      cute::SM90_TMA_LOAD_2D::copy(&maps_.weights, barrier, kOnce, weights_ + place * Config::kWeightBytes,
                                   from.slot * Config::kSlotK * Config::Converter::kBits / 4,
                                   from.row_tile * Config::kStrips);
      std::uint8_t* scales = scales_ + place * scale_bytes_;
      const int first = group * layout::kStripRows;
      const int strip = from.row_tile * Config::kStrips;
      if constexpr (Config::Converter::kZeroPoints) {
        cute::SM90_TMA_LOAD_3D::copy(&maps_.scales, barrier, kShared, scales, first, strip, 0);
      } else {
        cute::SM90_TMA_LOAD_2D::copy(&maps_.scales, barrier, kShared, scales, first, strip);
      }
    }
  }

  __device__ void fetch_activations(int place, SlotCursor<Config> from) const {
    if constexpr (Config::kActivationBytes > 0) {
      if (from.row_tile >= end_) return;
      if (cute::elect_one_sync()) {
#pragma unroll
        for (int t = 0; t < Config::kTiles; ++t) {
          cute::SM90_TMA_LOAD_2D::copy(
              &maps_.activations, full_ + place, kShared,
              activations_ + place * Config::kActivationBytes + t * (Config::kActivationBytes / Config::kTiles),
              from.slot * Config::kSlotK + t * layout::kTileK, 0);
        }
      }
    }
  }

  const TensorMaps& maps_;
  const layout::Groups& groups_;
  std::uint8_t* activations_;  // [slot][tile][token][64 k], swizzled
  std::uint8_t* weights_;      // [slot][strip][tile][512 or 1024]
  std::uint8_t* scales_;       // [slot][scales, zero points][strip][group][16]
  std::uint64_t* full_;        // [slot]
  int scale_bytes_;
  int zero_points_;
  int transaction_bytes_;
  int slots_;
  int slots_of_k_;
  int end_;                  // row tiles of the CTA end here
  SlotCursor<Config> next_;  // to fetch
  int place_ = 0;            // in hand
  std::uint32_t phase_ = 0;
};

}  // namespace machete::stream
