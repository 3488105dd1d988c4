#pragma once

#include "kernels/gemm/group_cursor.h"
#include "kernels/layout/weight_layout.h"
#include "kernels/prepack/shape.h"

namespace machete::gemm {

/// The groups of a weight, for stages of stage_k k.
inline Groups groups_of(const packing::Shape& shape, int stage_k) {
  const int size = static_cast<int>(shape.packed_group_size);
  Groups groups = {};
  groups.tiles_per_group = size % layout::kTileK == 0 ? size / layout::kTileK : 0;
  groups.groups_per_tile = groups.fine() ? layout::kTileK / size : 0;
  // A stage starts anywhere in a group; groups that divide it start with it.
  groups.per_stage = stage_k % size == 0 ? stage_k / size : size % stage_k == 0 ? 1 : stage_k / size + 2;
  return groups;
}

}  // namespace machete::gemm
