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

// Of mma.sync.m16n8k32 and wgmma.m64k32, whose registers hold four bytes ("Matrix Fragments for mma.m16n8k32").
Place operand_a8(int lane, int j, int byte) { return {lane / 4 + 8 * (j % 2), lane % 4 * 4 + byte + 16 * (j / 2)}; }

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
  using Fragment = typename MMA_Traits<Mma<16>::Warpgroup>::ALayout;  // (thread, value) -> row + 64 k
  using Fragment8 = typename MMA_Traits<Mma<8>::Warpgroup>::ALayout;
  for (int thread = 0; thread < 128; ++thread) {
    const int row = thread / 32 * kStripRows;
    for (int v = 0; v < 8; ++v) {
      const Place place = operand_a(thread % 32, v / 2, v % 2);
      EXPECT_EQ(Fragment{}(thread, v), row + place.row + 64 * place.k);
    }
    for (int v = 0; v < 16; ++v) {
      const Place place = operand_a8(thread % 32, v / 4, v % 4);
      EXPECT_EQ(Fragment8{}(thread, v), row + place.row + 64 * place.k);
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

// With 8-bit activations a 4-bit word is two operand registers, each under one mask: `(word << 4) & 0xf0f0f0f0` is row
// r, `word & 0xf0f0f0f0` the row 8 below, byte by byte in the order of the operand.
TEST(Layout, ForEightBitActivationsAWordIsTwoOperandRegisters) {
  std::array<std::uint32_t, kTileBytes / 4> words{};
  for (int row = 0; row < kStripRows; ++row) {
    for (int k = 0; k < kTileK; ++k) {
      const auto element = static_cast<std::size_t>(tile_layout<4, 8>()(row, k));
      words[element / 8] |= static_cast<std::uint32_t>((row * 5 + k * 3) % 16) << (element % 8 * 4);
    }
  }
  for (int lane = 0; lane < 32; ++lane) {
    for (int step = 0; step < 2; ++step) {
      for (int j = 0; j < 4; ++j) {
        const std::uint32_t word = words[static_cast<std::size_t>(lane * 4 + step * 2 + j / 2)];
        const std::uint32_t operand = (j % 2 == 0 ? word << 4 : word) & 0xf0f0f0f0;
        for (int byte = 0; byte < 4; ++byte) {
          const Place place = operand_a8(lane, j, byte);
          EXPECT_EQ(operand >> (8 * byte) & 0xff, (place.row * 5 + (step * 32 + place.k) * 3) % 16 * 16)
              << "lane " << lane << " step " << step << " register " << j << " byte " << byte;
        }
      }
    }
  }
}

// Of 8 bits a word is an operand register as it is.
TEST(Layout, ForEightBitActivationsEightBitsAreTheOperand) {
  for (int lane = 0; lane < 32; ++lane) {
    for (int j = 0; j < 4; ++j) {
      for (int byte = 0; byte < 4; ++byte) {
        const Place place = operand_a8(lane, j, byte);
        const int element = lane * 16 + j * 4 + byte;
        EXPECT_EQ((tile_layout<8, 8>()(place.row, place.k)), element);
        EXPECT_EQ((tile_inverse<8, 8>()(element)), place.row + kStripRows * place.k);
      }
    }
  }
}

template <int kBits, int kActivationBits>
void expect_tiles_in_order() {
  constexpr int kN = 96;
  constexpr int kK = 320;
  constexpr int kDepth = 256 / kBits;
  constexpr auto tile_order = tile_layout<kBits, kActivationBits>();
  const auto layout = weight_layout<kBits, kActivationBits, std::int64_t>(kN, kK);
  std::set<std::int64_t> seen;
  for (int n = 0; n < kN; ++n) {
    for (int k = 0; k < kK; ++k) {
      const int tile = n / kStripRows * (kK / kDepth) + k / kDepth;
      EXPECT_EQ(layout(n, k), tile * kStripRows * kDepth + tile_order(n % kStripRows, k % kDepth));
      seen.insert(layout(n, k));
    }
  }
  EXPECT_EQ(seen.size(), static_cast<std::size_t>(kN * kK));
  EXPECT_EQ(*seen.rbegin(), kN * kK - 1);
}

TEST(Layout, TilesFollowEachOtherAlongKThenStrips) {
  expect_tiles_in_order<4, 16>();
  expect_tiles_in_order<8, 16>();
  expect_tiles_in_order<4, 8>();
  expect_tiles_in_order<8, 8>();
}

TEST(Layout, ALanesTwoScalesAreNeighbours) {
  for (int row = 0; row < 8; ++row) {
    EXPECT_EQ(scale_layout()(row), 2 * row);
    EXPECT_EQ(scale_layout()(row + 8), 2 * row + 1);
  }
}

TEST(Groups, KnowTheGroupOfEveryTile) {
  for (const std::int64_t size : {16, 32, 64, 128, 192, 320, 4096, 8128}) {
    const packing::Shape shape = packing::shape_of(64, 65536, size, 4, false, 8);
    const Groups groups = groups_of(shape, kTileK);
    for (int tile = 0; tile < 1024; ++tile)
      EXPECT_EQ(groups.group_of(tile), tile * kTileK / size) << size << ", " << tile;
  }
  const Groups one = groups_of(packing::shape_of(64, std::int64_t{1} << 24, -1, 4, false, 8), kTileK);
  EXPECT_EQ(one.group_of((1 << 18) - 1), 0);
}

TEST(Groups, LargeOnesAreRepeatedForActivationsOf16Bits) {
  for (const std::int64_t size : {-1, 128, 256, 384, 512, 4096}) {
    const packing::Shape shape = packing::shape_of(64, 1100, size);
    EXPECT_EQ(shape.packed_group_size, packing::kRepeatK) << size;
    EXPECT_EQ(shape.packed_groups, 9) << size;
    for (std::int64_t k = 0; k < 1100; ++k) {
      EXPECT_EQ(shape.source_group(k / packing::kRepeatK), size > 0 ? k / size : 0) << size << ", " << k;
    }
    EXPECT_EQ(packing::shape_of(64, 1100, size, 4, false, 8).packed_groups, shape.groups()) << size;
  }
  EXPECT_EQ(packing::shape_of(64, 1100, 192).packed_group_size, 192);
  EXPECT_EQ(packing::shape_of(64, 100, -1).packed_groups, 1);
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
