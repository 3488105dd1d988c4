#pragma once

#include <cute/config.hpp>

namespace machete::gemm {

/// How scale groups lie along K, in tiles of 64 k. Prepack makes every group size a multiple of 64 (coarse) or 16 or 32
/// (fine).
struct Groups {
  int tiles_per_group;  // coarse: >= 1; fine: 0
  int groups_per_tile;  // coarse: 0; fine: 2 or 4
  int per_stage;        // groups a stage must hold, whatever its start

  CUTE_HOST_DEVICE bool fine() const { return tiles_per_group == 0; }
};

/// Walks along K tile by tile and knows the current group, without dividing more than once.
class GroupCursor {
 public:
  CUTE_HOST_DEVICE GroupCursor(Groups groups, int tile) : groups_(groups) {
    if (groups.fine()) {
      group_ = tile * groups.groups_per_tile;
    } else {
      group_ = tile / groups.tiles_per_group;
      tile_of_group_ = tile - group_ * groups.tiles_per_group;
    }
  }

  CUTE_HOST_DEVICE int group() const { return group_; }

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
  int group_ = 0;
  int tile_of_group_ = 0;
};

}  // namespace machete::gemm
