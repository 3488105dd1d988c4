#pragma once

#include <cutlass/arch/barrier.h>

#include <cute/arch/copy_sm90_desc.hpp>
#include <cute/arch/copy_sm90_tma.hpp>

#include "kernels/gemm/group_cursor.h"
#include "kernels/gemm/scheduler.h"

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

/// The three tensors a tile is made of, as TMA sees them. Out-of-range elements arrive as zeros, which are zero
/// weights, scales and activations: the padding of K and N needs no other care.
struct TensorMaps {
  CUtensorMap activations;  // (K, M) of 16 bit, box (64, BLK_M), 128-byte swizzle
  CUtensorMap weights;      // (K/64*64, N/16) of 8 bytes, box (BLK_K, BLK_N/16): a strip's tiles are contiguous
  CUtensorMap scales;       // (16, groups, N/16) of 16 bit, box (16, groups a stage, BLK_N/16)
};

/// One thread that keeps the ring full.
template <class Config>
struct Producer {
  static_assert(Config::kTileK <= 256, "a TMA box has at most 256 elements a side");

  const TensorMaps& maps;
  typename Config::SharedStorage& shared;
  Groups groups;
  bool weights_once;  // no other CTA reads these weights: let them leave L2 first
  Stage<Config::kStages> stage;

  __device__ void load(WorkTile tile, StageRange range) {
    using namespace cute;
    constexpr int kRank = Config::kStrips;
    const auto weight_hint =
        static_cast<std::uint64_t>(weights_once ? TMA::CacheHintSm90::EVICT_FIRST : TMA::CacheHintSm90::EVICT_NORMAL);
    const auto shared_hint = static_cast<std::uint64_t>(TMA::CacheHintSm90::EVICT_LAST);
    const std::uint32_t bytes =
        Config::kWeightBytes + Config::kActivationBytes + kRank * groups.per_stage * layout::kStripRows * 2;
    GroupCursor cursor(groups, range.begin * Config::kTiles);
    for (int block = range.begin; block < range.end; ++block) {
      Barrier::wait(&shared.empty[stage.index], stage.phase ^ 1);
      std::uint64_t* full = &shared.full[stage.index];
      TransactionBarrier::arrive_and_expect_tx(full, bytes);
      SM90_TMA_LOAD_2D::copy(&maps.weights, full, weight_hint, shared.pipeline.weights[stage.index],
                             block * Config::kTileK, tile.n * kRank);
      auto* activations = shared.pipeline.activations + stage.index * Config::kTileM * Config::kTileK;
#pragma unroll
      for (int t = 0; t < Config::kTiles; ++t) {
        SM90_TMA_LOAD_2D::copy(&maps.activations, full, shared_hint, activations + t * Config::kTileM * layout::kTileK,
                               block * Config::kTileK + t * layout::kTileK, tile.m * Config::kTileM);
      }
      SM90_TMA_LOAD_3D::copy(&maps.scales, full, shared_hint, shared.pipeline.scales[stage.index], 0, cursor.group(),
                             tile.n * kRank);
#pragma unroll
      for (int t = 0; t < Config::kTiles; ++t) cursor.advance();
      stage.advance();
    }
  }
};

}  // namespace machete::gemm
