#pragma once

#include <cute/config.hpp>

namespace machete::gemm {

struct WorkTile {
  int n;  // in tiles
  int m;
};

/// Numbers the tiles of D. Tokens run fastest, so that CTAs working at the same time share weights, in panels of kPanel
/// token tiles, whose activations stay in L2 while all weights pass by.
struct Raster {
  static constexpr int kPanel = 16;

  int n_tiles;
  int m_tiles;

  CUTE_HOST_DEVICE int size() const { return n_tiles * m_tiles; }

  CUTE_HOST_DEVICE WorkTile operator()(int index) const {
    const int panel = index / (kPanel * n_tiles);
    const int first = panel * kPanel;
    const int width = m_tiles - first < kPanel ? m_tiles - first : kPanel;
    const int local = index - first * n_tiles;
    return {local / width, first + local % width};
  }
};

/// The stages of K that one CTA of a cluster works on: equal shares, in steps of the loop body.
struct StageRange {
  int begin;
  int end;
};
CUTE_HOST_DEVICE StageRange split_range(int steps, int stages_per_step, int rank, int splits) {
  return {steps * rank / splits * stages_per_step, steps * (rank + 1) / splits * stages_per_step};
}

}  // namespace machete::gemm
