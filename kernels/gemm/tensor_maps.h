#pragma once

#include "kernels/kernel.h"
#include "kernels/launch.h"
#include "kernels/layout/groups.h"
#include "kernels/tensor_map.h"

namespace machete::gemm {

/// The tensors a tile is made of, as TMA sees them (kernels/tensor_map.h). The last tile of tokens has a box of those
/// that there are: zeros that TMA puts in place of others cost as much as data, or more (docs/design-notes.md). What
/// then lies in shared memory for them is anything, and so are their sums, which nobody stores.
struct TensorMaps {
  CUtensorMap activations;       // (K, M), box (128 bytes, BLK_M), 128-byte swizzle; of all token tiles but the last
  CUtensorMap last_activations;  // the same, box (128 bytes, last_tokens)
  CUtensorMap weights;      // (K/64*64, N/16) of 8 or 16 bytes, box (BLK_K, BLK_N/16): a strip's tiles are contiguous
  CUtensorMap scales;       // (groups*16, N/16) of 16 bit, box (groups a stage * 16, BLK_N/16)
  CUtensorMap zero_points;  // the same, where the weights have them
  CUtensorMap residual;     // (N, M), box (64, BLK_M), 128-byte swizzle; where it is a tree's source
  int last_tile;            // of tokens
  int last_tokens;          // in it

  CUTE_HOST_DEVICE bool is_last(int m_tile) const { return m_tile == last_tile; }
};

/// Whether the driver took them. source: the residual is a tree's.
template <class Config>
bool encode_tensor_maps(const kernels::Launch& launch, const layout::Groups& groups, bool source, TensorMaps* maps) {
  constexpr auto kBytes = sizeof(typename Config::Activation);
  maps->last_tile = kernels::ceil_div(launch.m, Config::kTileM) - 1;
  maps->last_tokens = static_cast<int>(launch.m - static_cast<std::int64_t>(maps->last_tile) * Config::kTileM);
  const auto scales = [&](const void* values, CUtensorMap* map) {
    return kernels::encode_scales(launch, values, groups.per_stage, Config::kStrips, map);
  };
  return (maps->last_tile == 0 || kernels::encode_activations(launch, Config::kTileM, &maps->activations, kBytes)) &&
         kernels::encode_activations(launch, maps->last_tokens, &maps->last_activations, kBytes) &&
         kernels::encode_weights(launch, Config::kTileK, Config::kStrips, &maps->weights) &&
         scales(launch.scales, &maps->scales) &&
         (!Config::Converter::kZeroPoints || scales(launch.zero_points, &maps->zero_points)) &&
         (!source || kernels::encode_residual(launch, Config::kTileM, &maps->residual));
}

}  // namespace machete::gemm
