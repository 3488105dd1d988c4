#pragma once

/// The order of packed weights, derived from the MMA that consumes them.
///
/// Machete computes Dᵀ = W · Aᵀ: W[N,K] is the *A operand* of the MMA, since only that operand may come from registers,
/// where weights are unpacked; the activations are its B operand. Output features (N) are therefore the MMA's rows ("M"
/// in its name), tokens its columns. This is the one place that says so.
///
/// A warp's share of wgmma's m64k16 operand is 16 rows x 16 k, and equals the operand of mma.sync m16n8k16
/// (weight_layout.cpp asserts it), so a *strip* of 16 rows serves both. Four such k16 steps make a *tile* of 16 rows x
/// 64 k: 512 bytes, of which each lane owns 16 contiguous ones, a 32-bit word a step:
///
///        tile: lane 0 | lane 1 | ... | lane 31           16 bytes each: one 128-bit load
///        lane: step 0 | step 1 | step 2 | step 3         one word each: the lane's 8 values of a k16 step
///        word: nibble  7   6   5   4   3   2   1   0
///              value  a3' a2' a1' a0' a3  a2  a1  a0     a0..a3: the four operand registers; x and x' their low and
///              high halves
///
/// so that `(word >> 4 j) & 0x000f000f` is operand register j. In k, a and a' are neighbours (k = 2c, 2c+1 for lane
/// column c), a2 and a3 lie 8 further on; in rows, a1 and a3 lie 8 below a0 and a2. The even nibbles of a word are
/// hence four k's of one row, and the odd ones four k's of the row 8 below: `word & 0x0f0f0f0f` feeds an 8-bit integer
/// MMA as well.
///
/// Tiles follow each other along K, strips along N: [N/16][K/64][512 bytes].
///
/// 8-bit weights have tiles of 16 rows x 32 k, 512 bytes as well. Of a lane's 16 bytes, the first eight are the row of
/// a0 and a2, the others the row 8 below:
///
///        lane: row r, step 0: a0 a0' a2 a2' | step 1 | row r + 8, step 0: a1 a1' a3 a3' | step 1
///
/// so that two bytes of a word make an operand register, and a word is four k's of a row for an 8-bit integer MMA.
///
/// The MMAs of 8-bit activations (wgmma m64nNk32, mma.sync m16n8k32) take 16 rows x 32 k a step, four bytes in each of
/// a lane's registers: a0 has k = 4c..4c+3 of row r, a1 those of the row 8 below, a2 and a3 lie 16 further on. Tiles
/// are as large as before, but in an order of their own:
///
///        4 bits, lane: step 0: a0 a1, a2 a3 | step 1: a0 a1, a2 a3     a word each: even nibbles a0, odd ones a1
///        8 bits, lane: a0 | a1 | a2 | a3                               a word each, one step
///
/// so that `(word << 4) & 0xf0f0f0f0` and `word & 0xf0f0f0f0` are two operand registers of 16 (q - 8).

#include <cute/atom/mma_traits_sm80.hpp>
#include <cute/atom/mma_traits_sm90_gmma.hpp>
#include <cute/layout.hpp>

namespace machete::layout {

using namespace cute;  // NOLINT(google-build-using-namespace): the algebra is unreadable otherwise

/// The MMAs of each width of activations; all of a width share their operand's order.
template <int kActivationBits>
struct Mma;
template <>
struct Mma<16> {
  using Warpgroup = SM90_64x8x16_F32BF16BF16_RS<GMMA::Major::K, GMMA::Major::K>;
  using Warp = SM80_16x8x16_F32BF16BF16F32_TN;
};
template <>
struct Mma<8> {
  using Warpgroup = SM90_64x8x32_S32S8S8_RS_TN;
  using Warp = SM80_16x8x32_S32S8S8S32_TN;
};

inline constexpr int kStripRows = 16;
inline constexpr int kTileK = 64;
/// A step of an MMA: 32 bytes of activations, whatever their width.
constexpr int step_k(int activation_bits) { return 256 / activation_bits; }
inline constexpr int kStepK = step_k(16);
inline constexpr int kSteps = kTileK / kStepK;
inline constexpr int kTileElements = kStripRows * kTileK;
inline constexpr int kTileBytes = kTileElements / 2;

/// Bytes of 16 rows x 64 k, what kernels call a tile: of 8 bits, it is two of the layout's.
constexpr int tile_bytes(int bits) { return kTileElements * bits / 8; }

/// (lane, value) -> row + 16 k, of a warp's 16 rows of the operand. The warps of a warpgroup take strips one after the
/// other.
template <int kActivationBits = 16>
constexpr auto warp_fragment() {
  using Fragment =
      typename MMA_Traits<typename Mma<kActivationBits>::Warpgroup>::ALayout;  // (thread, value) -> row + 64 k
  auto strip = Layout<Shape<Shape<_16, _4>, Int<step_k(kActivationBits)>>,
                      Stride<Stride<_1, _0>, _16>>{};  // row + 64 k -> row % 16 + 16 k
  auto fragment = composition(strip, Fragment{});      // ((lane, warp), value)
  return make_layout(make_layout(get<0, 0>(fragment), get<0, 1>(fragment)), get<1>(fragment));  // (lane, value)
}

/// (lane, value) -> element of a step, in memory order: for 4 bits nibbles, for 8 bytes.
template <int kBits, int kActivationBits>
constexpr auto step_memory() {
  static_assert(kBits == 4 || kBits == 8);
  if constexpr (kActivationBits == 16 && kBits == 4) {  // (lane, (half, register))
    return Layout<Shape<_32, Shape<_2, _4>>, Stride<_32, Stride<_4, _1>>>{};
  } else if constexpr (kActivationBits == 16) {  // (lane, (half, (row, k 8 on)))
    return Layout<Shape<_32, Shape<_2, Shape<_2, _2>>>, Stride<_16, Stride<_1, Stride<_8, _2>>>>{};
  } else if constexpr (kBits == 4) {  // (lane, (byte, row, k 16 on))
    return Layout<Shape<_32, Shape<_4, _2, _2>>, Stride<_32, Stride<_2, _1, _8>>>{};
  } else {  // (lane, (byte, register))
    return Layout<Shape<_32, Shape<_4, _4>>, Stride<_16, Stride<_1, _4>>>{};
  }
}

/// (row, k) -> element, in memory order, of a 512-byte tile: 16 x 64 of 4 bits, 16 x 32 of 8.
template <int kBits = 4, int kActivationBits = 16>
constexpr auto tile_layout() {
  constexpr int kDepth = step_k(kActivationBits);
  constexpr int kRun = kActivationBits == 16 && kBits == 8 ? 4 : kDepth / 2;  // what lies together of a lane's step
  using Steps = Layout<Int<256 / kBits / kDepth>, Int<kRun>>;
  auto step = composition(step_memory<kBits, kActivationBits>(),
                          right_inverse(warp_fragment<kActivationBits>()).with_shape(Int<16>{}, Int<kDepth>{}));
  return make_layout(get<0>(step), make_layout(get<1>(step), Steps{}));  // (row, (k, step))
}

/// element -> row + 16 k: the inverse of tile_layout().
template <int kBits = 4, int kActivationBits = 16>
constexpr auto tile_inverse() {
  return right_inverse(tile_layout<kBits, kActivationBits>());
}

/// (n, k) -> element, in memory order, of a whole weight; n a multiple of 16, k of 64.
template <int kBits = 4, int kActivationBits = 16, class Index>
constexpr auto weight_layout(Index n, Index k) {
  auto tile = tile_layout<kBits, kActivationBits>();
  Index tiles_k = k / Index(size<1>(tile));
  return make_layout(make_layout(get<0>(tile), make_layout(n / Index(kStripRows), tiles_k * Index(size(tile)))),
                     make_layout(get<1>(tile), make_layout(tiles_k, Int<decltype(size(tile))::value>{})));
}

/// row of a strip -> place among its group's 16 packed scales: a lane's two rows, r and r + 8, are neighbours (one
/// 32-bit load).
constexpr auto scale_layout() { return Layout<Shape<_8, _2>, Stride<_2, _1>>{}; }

}  // namespace machete::layout
