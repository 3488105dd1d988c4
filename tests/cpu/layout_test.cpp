// The packed order, against what the PTX manual says of operand fragments, walked by brute force.
#include <gtest/gtest.h>

#include <array>
#include <set>

#include "kernels/layout/groups.h"
#include "kernels/layout/weight_layout.h"

namespace machete::layout {
namespace {

struct Place {
  int row;
  int k;
};

// Operand A of mma.sync.m16n8k16 and, per warp, of wgmma.m64k16: register a_j, half h (PTX ISA, "Matrix Fragments for
// mma.m16n8k16").
Place operand_a(int lane, int j, int half) { return {lane / 4 + 8 * (j % 2), lane % 4 * 2 + half + 8 * (j / 2)}; }

constexpr bool is_bijection() {
  std::array<bool, kTileElements> seen{};
  constexpr auto tile = tile_layout();
  for (int k = 0; k < kTileK; ++k) {
    for (int row = 0; row < kStripRows; ++row) {
      const int element = tile(row, k);
      if (element < 0 || element >= kTileElements || seen[static_cast<std::size_t>(element)]) return false;
      seen[static_cast<std::size_t>(element)] = true;
    }
  }
  return true;
}
static_assert(is_bijection());

TEST(Layout, ALanesWordIsItsOperandOfOneStep) {
  for (int lane = 0; lane < 32; ++lane) {
    for (int step = 0; step < kSteps; ++step) {
      for (int j = 0; j < 4; ++j) {
        for (int half = 0; half < 2; ++half) {
          const Place place = operand_a(lane, j, half);
          const int nibble = j + 4 * half;  // so that (word >> 4 j) & 0x000f000f is register j
          EXPECT_EQ(tile_layout()(place.row, step * kStepK + place.k), lane * 32 + step * 8 + nibble)
              << "lane " << lane << " step " << step << " register " << j << " half " << half;
        }
      }
    }
  }
}

TEST(Layout, WgmmaTakesStripsByWarp) {
  using Fragment = typename MMA_Traits<WarpgroupMma>::ALayout;  // (thread, value) -> row + 64 k
  for (int thread = 0; thread < 128; ++thread) {
    for (int v = 0; v < 8; ++v) {
      const int index = Fragment{}(thread, v);
      const Place place = operand_a(thread % 32, v / 2, v % 2);
      EXPECT_EQ(index % 64, thread / 32 * kStripRows + place.row);
      EXPECT_EQ(index / 64, place.k);
    }
  }
}

TEST(Layout, InverseIsTheInverse) {
  for (int k = 0; k < kTileK; ++k) {
    for (int row = 0; row < kStripRows; ++row) EXPECT_EQ(tile_inverse()(tile_layout()(row, k)), row + kStripRows * k);
  }
}

// What an 8-bit integer MMA needs: under one mask, the four nibbles of a word lie in one row, and over the lanes of a
// quad they are the 16 k of the step, each once.
TEST(Layout, AMaskSelectsFourKOfOneRow) {
  for (int odd = 0; odd < 2; ++odd) {
    for (int quad = 0; quad < 8; ++quad) {
      std::set<int> ks;
      for (int column = 0; column < 4; ++column) {
        const int lane = quad * 4 + column;
        for (int byte = 0; byte < 4; ++byte) {
          const int place = tile_inverse()(lane * 32 + byte * 2 + odd);
          EXPECT_EQ(place % kStripRows, quad + 8 * odd);
          ks.insert(place / kStripRows);
        }
      }
      EXPECT_EQ(ks.size(), 16u);
      EXPECT_EQ(*ks.begin(), 0);
      EXPECT_EQ(*ks.rbegin(), 15);
    }
  }
}

// Of 8-bit weights a lane's 16 bytes are two steps of row r, then two of row r + 8; a word is four k's of a row.
TEST(Layout, EightBitsAreRowByRowInALane) {
  for (int lane = 0; lane < 32; ++lane) {
    for (int step = 0; step < 2; ++step) {
      for (int j = 0; j < 4; ++j) {
        for (int half = 0; half < 2; ++half) {
          const Place place = operand_a(lane, j, half);
          EXPECT_EQ(tile_layout<8>()(place.row, step * kStepK + place.k),
                    lane * 16 + j % 2 * 8 + step * 4 + j / 2 * 2 + half)
              << "lane " << lane << " step " << step << " register " << j << " half " << half;
        }
      }
    }
  }
  for (int byte = 0; byte < kTileBytes; ++byte) {
    const int place = tile_inverse<8>()(byte);
    EXPECT_EQ(tile_layout<8>()(place % kStripRows, place / kStripRows), byte);
  }
}

TEST(Layout, TilesFollowEachOtherAlongKThenStrips) {
  constexpr int kN = 96;
  constexpr int kK = 320;
  const auto layout = weight_layout<4, std::int64_t>(kN, kK);
  std::set<std::int64_t> seen;
  for (int n = 0; n < kN; ++n) {
    for (int k = 0; k < kK; ++k) {
      const int tile = n / kStripRows * (kK / kTileK) + k / kTileK;
      EXPECT_EQ(layout(n, k), tile * kTileElements + tile_layout()(n % kStripRows, k % kTileK));
      seen.insert(layout(n, k));
    }
  }
  EXPECT_EQ(seen.size(), static_cast<std::size_t>(kN * kK));
  EXPECT_EQ(*seen.rbegin(), kN * kK - 1);
}

TEST(Layout, ALanesTwoScalesAreNeighbours) {
  for (int row = 0; row < 8; ++row) {
    EXPECT_EQ(scale_layout()(row), 2 * row);
    EXPECT_EQ(scale_layout()(row + 8), 2 * row + 1);
  }
}

TEST(Groups, KnowTheGroupOfEveryTile) {
  for (const std::int64_t size : {16, 32, 64, 128, 192, 320, 4096, 8128}) {
    const packing::Shape shape = packing::shape_of(64, 65536, size);
    const Groups groups = groups_of(shape, kTileK);
    for (int tile = 0; tile < 1024; ++tile)
      EXPECT_EQ(groups.group_of(tile), tile * kTileK / size) << size << ", " << tile;
  }
  const Groups one = groups_of(packing::shape_of(64, std::int64_t{1} << 24, -1), kTileK);
  EXPECT_EQ(one.group_of((1 << 18) - 1), 0);
}

TEST(Groups, AStageHoldsWhateverItsStartTouches) {
  for (const int stage : {64, 128, 256}) {
    for (const std::int64_t size : {16, 32, 64, 128, 192, 320, 4096}) {
      const Groups groups = groups_of(packing::shape_of(64, 65536, size), stage);
      for (int first = 0; first < 65536; first += stage) {
        EXPECT_LE((first + stage - 1) / size - first / size + 1, groups.per_stage) << stage << ", " << size;
      }
    }
  }
}

TEST(GroupCursor, WalksFromGroupToGroup) {
  for (const std::int64_t size : {16, 32, 64, 128, 192, 320}) {
    const Groups groups = groups_of(packing::shape_of(64, 65536, size), kTileK);
    for (int start = 0; start < 12; ++start) {
      GroupCursor cursor(groups, start);
      for (int tile = start; tile < 40; ++tile, cursor.advance()) EXPECT_EQ(cursor.group(), tile * kTileK / size);
    }
  }
}

}  // namespace
}  // namespace machete::layout
