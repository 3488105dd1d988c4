#pragma once

#include <cstdint>
#include <cute/config.hpp>

#include "kernels/layout/weight_layout.h"
#include "kernels/prepack/shape.h"

namespace machete::layout {

/// How scale groups lie along K, in tiles of 64 k. Prepack makes every group size a multiple of 64 (coarse) or 16 or 32
/// (fine).
struct Groups {
  int tiles_per_group;       // coarse: >= 1; fine: 0
  int groups_per_tile;       // coarse: 0; fine: 2 or 4
  int per_stage;             // groups that a stage must hold, whatever its start
  std::uint32_t reciprocal;  // ceil(2^31 / tiles_per_group): a multiplication finds a tile's group

  CUTE_HOST_DEVICE bool fine() const { return tiles_per_group == 0; }

  /// The (first) group of a tile. Exact as long as tile * tiles_per_group < 2^31.
  CUTE_HOST_DEVICE int group_of(int tile) const {
    if (fine()) return tile * groups_per_tile;
    return static_cast<int>((static_cast<std::uint64_t>(static_cast<std::uint32_t>(tile) * 2) * reciprocal) >> 32);
  }
};

/// The groups of a weight, for stages of stage_k k.
inline Groups groups_of(const packing::Shape& shape, int stage_k) {
  const int size = static_cast<int>(shape.packed_group_size);
  Groups groups = {};
  groups.tiles_per_group = size % kTileK == 0 ? size / kTileK : 0;
  groups.groups_per_tile = groups.fine() ? kTileK / size : 0;
  // A stage starts anywhere in a group; groups that divide it start with it.
  groups.per_stage = stage_k % size == 0 ? stage_k / size : size % stage_k == 0 ? 1 : stage_k / size + 2;
  if (shape.packed_groups == 1 && !groups.fine()) {
    // One group, as long as the stages that hold it: no stage is to look for another.
    const int stage_tiles = stage_k / kTileK;
    groups.tiles_per_group = (groups.tiles_per_group + stage_tiles - 1) / stage_tiles * stage_tiles;
    groups.per_stage = 1;
  }
  if (!groups.fine()) {
    const auto divisor = static_cast<std::uint32_t>(groups.tiles_per_group);
    groups.reciprocal = ((1u << 31) + divisor - 1) / divisor;
  }
  return groups;
}

/// Walks along K tile by tile and knows the current group.
class GroupCursor {
 public:
  CUTE_HOST_DEVICE GroupCursor(Groups groups, int tile) : groups_(groups) { seek(tile); }

  CUTE_HOST_DEVICE int group() const { return group_; }

  CUTE_HOST_DEVICE void seek(int tile) {
    group_ = groups_.group_of(tile);
    tile_of_group_ = tile - group_ * groups_.tiles_per_group;
  }

  CUTE_HOST_DEVICE void advance() {
    if (groups_.fine()) {
      group_ += groups_.groups_per_tile;
    } else if (++tile_of_group_ == groups_.tiles_per_group) {
      tile_of_group_ = 0;
      ++group_;
    }
  }

 private:
  Groups groups_;
  int group_;
  int tile_of_group_;  // coarse
};

}  // namespace machete::layout
