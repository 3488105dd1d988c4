#pragma once

/// Decode: a few tokens, so the weights are everything. They are read once, by bulk copies that start before the
/// activations are even there, and unpacked as little as possible.
///
// clang-format off
///   slot (kStrips x 256 k) --TMA--> warp's own ring --LDS.128--> words
///     words: & 0xf0f0f0f0 and << 4 & 0xf0f0f0f0 ------------------------> operand A, 16 (q - 8) in int8 --+
///   activations (256 k) --> three signed digits (planes.cuh) -----------> operand B, a digit a column ---+--mma.sync m16n8k32--> int32, exact
///   each 128 k or group: to float, times scale of the row and weight of the digit, added in fp32
///   each row tile: sum over digits (lanes), then over the warps in order (shared memory) --> round --> D
// clang-format on
///
/// A CTA owns whole rows, so nothing is reduced between CTAs; its eight warps take the slots of K in turn, each from
/// its own ring (kernels/stream).

#include <cutlass/bfloat16.h>
#include <cutlass/half.h>

#include "kernels/decode/config.h"
#include "kernels/decode/planes.cuh"
#include "kernels/stream/ring.cuh"
#include "kernels/timeline.h"

namespace machete::decode {

template <class Config>
struct Params {
  using Element = typename Config::Element;
  stream::TensorMaps maps;
  layout::Groups groups;
  SharedLayout<Config> shared;
  stream::RowTiles row_tiles;
  const Element* a;             // [M, K], rows lda apart
  Element* d;                   // [M, N], rows ldd apart
  const std::uint8_t* weights;  // for tokens with Inf or NaN
  const Element* scales;
  std::int64_t lda;
  std::int64_t ldd;
  int m;
  int n;
  float tensor_scale;  // of every sum
  int k;
  int k_padded;
  int packed_groups;
  int slots_of_k;
  int early_slots;  // of a warp, fetched before the activations are there
  kernels::Timeline timeline;
};

__device__ inline void mma_s8(int (&d)[4], std::uint32_t a0, std::uint32_t a1, std::uint32_t a2, std::uint32_t a3,
                              std::uint32_t b0, std::uint32_t b1) {
  asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
      : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

/// Row sums of a warp: [strip][block of columns][row, row + 8 | column, column + 1], in fp32, digits weighed.
template <class Config>
struct Sums {
  float value[Config::kStrips][Config::kBlocks][4];
};

/// Multiplies one slot into the sums.
template <class Config>
struct Multiplier {
  using Element = typename Config::Element;
  using Converter = typename Config::Converter;
  // Integers are kept as the low bits of this float, so that one subtraction converts them. 128 k keep them below 2^22.
  static constexpr int kOrigin = 0x4B400000;  // 1.5 * 2^23

  const std::uint32_t* planes;  // [slots of K][kTiles][column][4][4]
  const float* factors;         // [slots of K][kBlocks * 8]
  const std::uint32_t* zero;
  layout::Groups groups;

  __device__ void operator()(const std::uint8_t* weights /* [strip][tile][512] */,
                             const std::uint8_t* scales /* [strip][group][16] */, int slot_of_k,
                             Sums<Config>& sums) const {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    float2 factor[Config::kBlocks];
    const uint4* digits[Config::kBlocks];
#pragma unroll
    for (int b = 0; b < Config::kBlocks; ++b) {
      factor[b] = *reinterpret_cast<const float2*>(factors + slot_of_k * Config::kBlocks * 8 + b * 8 + lane % 4 * 2);
      const int column = b * 8 + lane / 4;
      const bool used = column < Config::kColumns;
      digits[b] = reinterpret_cast<const uint4*>(
          used ? planes + slot_of_k * Config::kPlaneWords + column * 16 + lane % 4 * 4 : zero);
    }

    int sum[Config::kStrips][Config::kBlocks][4];
    clear(sum);
    int group = 0;
    const int tile = slot_of_k * Config::kTiles;
    int tile_of_group = tile - groups.group_of(tile) * groups.tiles_per_group;
    // Without branches, so that loads run ahead.
#pragma unroll
    for (int t = 0; t < Config::kTiles; t += 2) {
      multiply_tile(weights, t, digits, sum);
      multiply_tile(weights, t + 1, digits, sum);
      flush(scales, group, factor, sum, sums);
      tile_of_group += 2;
      const bool next = tile_of_group == groups.tiles_per_group;
      tile_of_group = next ? 0 : tile_of_group;
      group += next ? 1 : 0;
    }
  }

 private:
  /// One tile of every strip.
  __device__ void multiply_tile(const std::uint8_t* weights, int t, const uint4* const (&digits)[Config::kBlocks],
                                int (&sum)[Config::kStrips][Config::kBlocks][4]) const {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    uint4 b[Config::kBlocks];
#pragma unroll
    for (int i = 0; i < Config::kBlocks; ++i) {
      const bool used = i * 8 + lane / 4 < Config::kColumns;
      b[i] = digits[i][used ? t * Config::kTileWords / 4 : 0];
    }
#pragma unroll
    for (int s = 0; s < Config::kStrips; ++s) {
      const auto w =
          *reinterpret_cast<const uint4*>(weights + (s * Config::kTiles + t) * layout::kTileBytes + lane * 16);
#pragma unroll
      for (int i = 0; i < Config::kBlocks; ++i) {
        mma_s8(sum[s][i], Converter::upper_row(w.x), Converter::lower_row(w.x), Converter::upper_row(w.y),
               Converter::lower_row(w.y), b[i].x, b[i].y);
        mma_s8(sum[s][i], Converter::upper_row(w.z), Converter::lower_row(w.z), Converter::upper_row(w.w),
               Converter::lower_row(w.w), b[i].z, b[i].w);
      }
    }
  }

  __device__ static void clear(int (&sum)[Config::kStrips][Config::kBlocks][4]) {
#pragma unroll
    for (auto& strip : sum) {
#pragma unroll
      for (auto& block : strip) {
#pragma unroll
        for (int& v : block) v = kOrigin;
      }
    }
  }

  /// Adds the integers since the last flush, at most 128 k's, times their scales.
  __device__ void flush(const std::uint8_t* scales, int group, const float2 (&factor)[Config::kBlocks],
                        int (&sum)[Config::kStrips][Config::kBlocks][4], Sums<Config>& sums) const {
    const int lane = static_cast<int>(threadIdx.x) % 32;
#pragma unroll
    for (int s = 0; s < Config::kStrips; ++s) {
      const auto pair = *reinterpret_cast<const std::uint32_t*>(
          scales + ((s * groups.per_stage + group) * layout::kStripRows + lane / 4 * 2) * 2);
      const float scale[2] = {to_float(pair & 0xffffu), to_float(pair >> 16)};
#pragma unroll
      for (int b = 0; b < Config::kBlocks; ++b) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const float exact = __int_as_float(sum[s][b][i]) - __int_as_float(kOrigin);
          float& total = sums.value[s][b][i];
          total = fmaf(exact, scale[i / 2] * (i % 2 == 0 ? factor[b].x : factor[b].y), total);
          sum[s][b][i] = kOrigin;
        }
      }
    }
  }

  __device__ static float to_float(std::uint32_t bits) {
    return static_cast<float>(Element::bitcast(static_cast<std::uint16_t>(bits)));
  }
};

/// A row of W times a token with an Inf or a NaN, which integers cannot hold: in fp32, element by element. Slow, right
/// and rare.
template <class Config>
__device__ __noinline__ float dot_product(const Params<Config>& p, int n, int token) {
  constexpr auto tile_layout = layout::tile_layout();
  const int strip = n / layout::kStripRows;
  const int row = n % layout::kStripRows;
  float sum = 0;
#pragma unroll 1
  for (int k = 0; k < p.k; ++k) {
    const std::int64_t tile = std::int64_t{strip} * (p.k_padded / layout::kTileK) + k / layout::kTileK;
    const int element = tile_layout(row, k % layout::kTileK);
    const int code = (p.weights[tile * layout::kTileBytes + element / 2] >> (element % 2 * 4)) & 15;
    const int group = p.groups.group_of(k / layout::kTileK);
    const float scale = static_cast<float>(
        p.scales[(std::int64_t{strip} * p.packed_groups + group) * layout::kStripRows + layout::scale_layout()(row)]);
    sum = fmaf(static_cast<float>(p.a[token * p.lda + k]),
               static_cast<float>(Config::Converter::value(static_cast<std::uint8_t>(code))) * scale, sum);
  }
  return sum;
}

template <class Config>
__global__ void __launch_bounds__(Config::kThreads, 1) decode(const __grid_constant__ Params<Config> p) {
  using Element = typename Config::Element;
  constexpr int kWarps = Config::kWarps;
  extern __shared__ __align__(128) std::uint8_t raw[];
  const int warp = __shfl_sync(~0u, static_cast<int>(threadIdx.x) / 32, 0);
  const int lane = static_cast<int>(threadIdx.x) % 32;
  auto* planes = reinterpret_cast<std::uint32_t*>(raw + p.shared.planes);
  auto* factors = reinterpret_cast<float*>(raw + p.shared.factors);
  auto* partial = reinterpret_cast<float*>(raw + p.shared.partial);
  auto* zero = reinterpret_cast<std::uint32_t*>(raw + p.shared.zero);
  auto* special = reinterpret_cast<int*>(raw + p.shared.special);

  // Dependents may be launched at once: they find no room beside this CTA, and take its place when it leaves.
  asm volatile("griddepcontrol.launch_dependents;");
  if (threadIdx.x == 0) p.timeline.mark(kernels::kStarted);

  const int first = p.row_tiles.first(static_cast<int>(blockIdx.x));
  const int end = p.row_tiles.first(static_cast<int>(blockIdx.x) + 1);
  stream::SlotCursor<Config> cursor(first, warp, p.slots_of_k);
  stream::Ring<Config> ring(p.maps, p.groups, p.shared.ring, raw, warp, p.slots_of_k, end, cursor);
  ring.initialise();
  ring.prefetch_weights(p.early_slots);
  if (threadIdx.x < 4) zero[threadIdx.x] = 0;
  if (threadIdx.x < Config::kTokens) special[threadIdx.x] = 0;
#pragma unroll 1
  for (int i = static_cast<int>(threadIdx.x); i < p.slots_of_k * Config::kBlocks * 8; i += Config::kThreads) {
    if (i % (Config::kBlocks * 8) >= p.m * Config::kDigits) factors[i] = 0;
  }
  if (p.m < Config::kTokens) {  // columns of tokens that there are not
#pragma unroll 1
    for (int i = static_cast<int>(threadIdx.x); i < p.slots_of_k * Config::kPlaneWords; i += Config::kThreads)
      planes[i] = 0;
  }
  __syncthreads();

  asm volatile("griddepcontrol.wait;" ::: "memory");  // the activations are there
  if (threadIdx.x == 0) p.timeline.mark(kernels::kDependencyMet);

  // All loads are in flight at once, ahead of the rest of the ring: what counts is the latency of L2, which nothing
  // else hides.
  const Planes<Config> convert{planes, factors, special};
  const bool aligned = p.lda % 8 == 0;
#pragma unroll 1
  for (int slot = warp; slot < p.slots_of_k; slot += kWarps) {
#pragma unroll 1
    for (int token = 0; token < p.m; ++token) convert.fetch(p.a + token * p.lda, p.k, aligned, slot, token);
  }
  ring.fill(p.early_slots);
  convert.wait();
#pragma unroll 1
  for (int slot = warp; slot < p.slots_of_k; slot += kWarps) {
#pragma unroll 1
    for (int token = 0; token < p.m; ++token) convert.convert(slot, token);
  }
  // A warp multiplies the slots that it has converted, unless its turn shifts from row tile to row tile.
  if (p.slots_of_k % kWarps == 0) {
    __syncwarp();
  } else {
    __syncthreads();
  }

  if (threadIdx.x == 0) p.timeline.mark(kernels::kActivationsThere);
  const Multiplier<Config> multiply{planes, factors, zero, p.groups};
  for (int row_tile = first; row_tile < end; ++row_tile) {
    Sums<Config> sums = {};
    while (cursor.row_tile == row_tile) {
      ring.wait();
      multiply(ring.weights(), ring.scales(), cursor.slot, sums);
      ring.release();
      cursor.advance(p.slots_of_k);
    }

    if (threadIdx.x == 0) p.timeline.mark(kernels::kMultiplied);

    // Digits are added within the quad of lanes, then the warps' sums in order.
    float* own = partial + ((row_tile & 1) * kWarps + warp) * Config::kTokens * Config::kRows;  // [kTokens][kRows]
#pragma unroll
    for (int s = 0; s < Config::kStrips; ++s) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float by_token[Config::kTokens] = {};
#pragma unroll
        for (int b = 0; b < Config::kBlocks; ++b) {
#pragma unroll
          for (int i = 0; i < 2; ++i) {
            const int token = (b * 8 + lane % 4 * 2 + i) / Config::kDigits;
#pragma unroll
            for (int t = 0; t < Config::kTokens; ++t) by_token[t] += token == t ? sums.value[s][b][half * 2 + i] : 0.f;
          }
        }
#pragma unroll
        for (int t = 0; t < Config::kTokens; ++t) {
          by_token[t] += __shfl_xor_sync(~0u, by_token[t], 1);
          by_token[t] += __shfl_xor_sync(~0u, by_token[t], 2);
          if (lane % 4 == 0) own[t * Config::kRows + s * layout::kStripRows + half * 8 + lane / 4] = by_token[t];
        }
      }
    }
    __syncthreads();
#pragma unroll 1
    for (int i = static_cast<int>(threadIdx.x); i < p.m * Config::kRows; i += Config::kThreads) {
      const int token = i / Config::kRows;
      const int n = row_tile * Config::kRows + i % Config::kRows;
      if (n >= p.n) continue;
      float sum = 0;
#pragma unroll
      for (int w = 0; w < kWarps; ++w)
        sum += partial[((row_tile & 1) * kWarps + w) * Config::kTokens * Config::kRows + i];
      if (special[token] != 0) sum = dot_product(p, n, token);
      p.d[token * p.ldd + n] = Element(sum * p.tensor_scale);
    }
  }
  if (threadIdx.x == 0) p.timeline.mark(kernels::kDone);
}

}  // namespace machete::decode
