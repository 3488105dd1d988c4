#pragma once

#include <cutlass/arch/barrier.h>

#include <cute/arch/copy_sm90_desc.hpp>
#include <cute/arch/copy_sm90_tma.hpp>

#include "kernels/gemm/scheduler.h"
#include "kernels/gemm/tensor_maps.h"
#include "kernels/layout/groups.h"

namespace machete::gemm {

using Barrier = cutlass::arch::ClusterBarrier;
using TransactionBarrier = cutlass::arch::ClusterTransactionBarrier;

/// A place in the ring of stages: which one, and how often the ring has gone round.
template <int kStages>
struct Stage {
  int index = 0;
  std::uint32_t phase = 0;

  __device__ void advance() {
    if (++index == kStages) {
      index = 0;
      phase ^= 1;
    }
  }
};

/// A stage that a warp has done with may be filled again.
template <class SharedStorage>
__device__ void release(SharedStorage& shared, int thread, int stage) {
  __syncwarp();
  if (thread % 32 == 0) Barrier::arrive(&shared.empty[stage]);
}

/// The warp that keeps the ring full. All its lanes take every step; one of them issues.
template <class Config>
class Producer {
 public:
  __device__ Producer(const TensorMaps& maps, typename Config::SharedStorage& shared, layout::Groups groups,
                      bool weights_once)
      : maps_(maps),
        shared_(shared),
        groups_(groups),
        elected_(cute::elect_one_sync()),
        weight_hint_(static_cast<std::uint64_t>(weights_once ? cute::TMA::CacheHintSm90::EVICT_FIRST
                                                             : cute::TMA::CacheHintSm90::EVICT_NORMAL)) {}

  __device__ bool elected() const { return elected_; }

  /// Fetches the descriptors of operands that a tile is sure to need.
  __device__ void prefetch_maps() const {
    cute::prefetch_tma_descriptor(&maps_.weights);
    cute::prefetch_tma_descriptor(maps_.last_tile == 0 ? &maps_.last_activations : &maps_.activations);
    cute::prefetch_tma_descriptor(&maps_.scales);
  }

  /// Starts on the weights of the first tile, which no kernel ahead in the stream writes. Their activations follow with
  /// load(), which a whole ring of weights would delay.
  template <int kStride = 1>
  __device__ void prefetch(WorkTile tile, int begin, int end) {
    Stage<Config::kStages> stage;
    Blocks<kStride> blocks(groups_, begin, end);
    for (; prefetched_ < kEarlyStages && !blocks.done(); blocks.advance()) {
      load_weights(tile, blocks.index, blocks.group(), stage.index);
      stage.advance();
      ++prefetched_;
    }
  }

  /// Steps of K of a tile: begin and every kStride-th after it, below end.
  template <int kStride = 1>
  __device__ void load(WorkTile tile, int begin, int end) {
    for (Blocks<kStride> blocks(groups_, begin, end); !blocks.done(); blocks.advance()) {
      if (prefetched_ > 0) {
        --prefetched_;
      } else {
        Barrier::wait(&shared_.empty[stage_.index], stage_.phase ^ 1);
        load_weights(tile, blocks.index, blocks.group(), stage_.index);
      }
      load_activations(tile, blocks.index, stage_.index);
      stage_.advance();
    }
  }

  /// The residual of a tile (source.cuh).
  __device__ void load_source(WorkTile tile) {
    constexpr int kBoxes = Config::kBoxes;  // of 64 rows
    static_assert(Config::kSourceStages * kBoxes * 64 == Config::kTileN && Config::kSourceStages <= Config::kStages);
#pragma unroll 1
    for (int i = 0; i < Config::kSourceStages; ++i) {
      Barrier::wait(&shared_.empty[stage_.index], stage_.phase ^ 1);
      if (elected_) {
        std::uint64_t* full = &shared_.full[stage_.index];
        TransactionBarrier::arrive_and_expect_tx(full, Config::kTileM * Config::kTokenBytes);
        auto* boxes =
            reinterpret_cast<std::uint8_t*>(shared_.activations) + stage_.index * Config::kTileM * Config::kTokenBytes;
#pragma unroll
        for (int box = 0; box < kBoxes; ++box) {
          cute::SM90_TMA_LOAD_2D::copy(&maps_.residual, full, kOnceHint, boxes + box * Config::kTileM * 128,
                                       tile.n * Config::kTileN + (i * kBoxes + box) * 64, tile.m * Config::kTileM);
        }
      }
      stage_.advance();
    }
  }

  /// The stage after the last, without data: consumers fetch ahead.
  __device__ void finish() {
    Barrier::wait(&shared_.empty[stage_.index], stage_.phase ^ 1);
    if (elected_) Barrier::arrive(&shared_.full[stage_.index]);
  }

 private:
  static constexpr int kEarlyStages = 2;
  static constexpr bool kZeroPoints = Config::Converter::kZeroPoints;
  static_assert(Config::kTileK * Config::Converter::kBits / 4 <= 256, "a TMA box has at most 256 elements a side");
  static constexpr auto kOnceHint = static_cast<std::uint64_t>(cute::TMA::CacheHintSm90::EVICT_FIRST);
  static constexpr auto kSharedHint = static_cast<std::uint64_t>(cute::TMA::CacheHintSm90::EVICT_LAST);

  /// Blocks of kTileK along K, a stage each, with the first scale group of each.
  template <int kStride>
  struct Blocks {
    static_assert(kStride == 1 || Config::kStagesPerStep == 1);
    int index;
    int end;
    layout::GroupCursor cursor;

    __device__ Blocks(const layout::Groups& groups, int begin_step, int end_step)
        : index(begin_step * Config::kStagesPerStep),
          end(end_step * Config::kStagesPerStep),
          cursor(groups, index * Config::kTiles) {}

    __device__ bool done() const { return index >= end; }
    __device__ int group() const { return cursor.group(); }
    __device__ void advance() {
      index += kStride;
      if constexpr (kStride == 1) {
#pragma unroll
        for (int t = 0; t < Config::kTiles; ++t) cursor.advance();
      } else {
        cursor.seek(index * Config::kTiles);
      }
    }
  };

  __device__ void load_weights(WorkTile tile, int block, int group, int stage) {
    if (!elected_) return;
    std::uint64_t* full = &shared_.full[stage];
    const int tokens = maps_.is_last(tile.m) ? maps_.last_tokens : Config::kTileM;
    const int scale_bytes = Config::kStrips * groups_.per_stage * layout::kStripRows * 2;
    TransactionBarrier::arrive_and_expect_tx(
        full, Config::kWeightBytes + tokens * Config::kTokenBytes + (kZeroPoints ? 2 : 1) * scale_bytes);
    cute::SM90_TMA_LOAD_2D::copy(&maps_.weights, full, weight_hint_, shared_.weights[stage],
                                 block * Config::kTileK * Config::Converter::kBits / 4, tile.n * Config::kStrips);
    const int first = group * layout::kStripRows;  // of a strip's scales
    cute::SM90_TMA_LOAD_2D::copy(&maps_.scales, full, kSharedHint, shared_.scales[stage], first,
                                 tile.n * Config::kStrips);
    if constexpr (kZeroPoints) {
      cute::SM90_TMA_LOAD_2D::copy(&maps_.zero_points, full, kSharedHint, shared_.scales[stage] + Config::kScaleBytes,
                                   first, tile.n * Config::kStrips);
    }
  }

  __device__ void load_activations(WorkTile tile, int block, int stage) {
    if (!elected_) return;
    const CUtensorMap* map = maps_.is_last(tile.m) ? &maps_.last_activations : &maps_.activations;
    auto* activations = shared_.activations + stage * Config::kTileM * Config::kTileK;  // [128 bytes][BLK_M]
#pragma unroll
    for (int k = 0; k < Config::kTileK; k += Config::kSwizzleK) {
      cute::SM90_TMA_LOAD_2D::copy(map, &shared_.full[stage], kSharedHint, activations + k * Config::kTileM,
                                   block * Config::kTileK + k, tile.m * Config::kTileM);
    }
  }

  const TensorMaps& maps_;
  typename Config::SharedStorage& shared_;
  layout::Groups groups_;
  bool elected_;
  std::uint64_t weight_hint_;
  Stage<Config::kStages> stage_;
  int prefetched_ = 0;
};

}  // namespace machete::gemm
