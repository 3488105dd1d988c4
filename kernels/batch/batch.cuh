#pragma once

/// Batch: up to 64 tokens, whose activations are streamed beside the weights and multiplied in 16 bits.
///
// clang-format off
///   W packed --TMA--> a warp's slot: [strip][tile][512 B] --LDS.128--> words --unpack: q - 8--> operand A --+
///   A        --TMA--> the same slot: [tile][token][64 k], swizzled --ldmatrix-----------------> operand B --+--mma.sync--> group, fp32
///   scales   --TMA--> the same slot: [strip][group][16] -----------------------------> group ends: x scale, + --> sums, fp32
///   each row tile: the warps' sums through shared memory, in the order of their turns --> round --> D
// clang-format on
///
/// A CTA owns whole rows, so nothing is reduced between CTAs. Its warps take turns of 128 k, as in
///
///   k:     0    128   256        1024  1152       K
///   turn:  | 0  |  1  | ... | 7  |  8  |  9  | ...
///   warp:    0     1          7     0     1
///
/// each from its own ring (kernels/stream), and meet only at the end of a row tile.

#include "kernels/afresh.h"
#include "kernels/batch/config.h"
#include "kernels/batch/multiplier.cuh"
#include "kernels/epilogue/store.cuh"
#include "kernels/stream/ring.cuh"
#include "kernels/timeline.h"

namespace machete::batch {

template <class Config>
struct Params {
  stream::TensorMaps maps;
  layout::Groups groups;
  SharedLayout<Config> shared;
  stream::RowTiles row_tiles;
  epilogue::Store<typename Config::Element> store;
  int slots_of_k;
  bool fractional_zero_points;
  int early_slots;  // of a warp, whose weights are fetched before the activations are there
  kernels::Timeline timeline;
};

__device__ inline float plus(float a, float b) { return a + b; }
__device__ inline float4 plus(float4 a, float4 b) { return {a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w}; }

/// What the steps of an epilogue read for a lane's first columns of a row tile.
template <class Config>
using Inputs = typename epilogue::Store<typename Config::Element>::template Inputs<Config::kEach>;

/// The columns of D that come of a row tile, and those of a token that a lane takes as its i-th.
template <class Config>
struct Items {
  bool swiglu;  // a column is a row of gate and one of up

  __device__ int columns() const { return swiglu ? Config::kRows / 2 : Config::kRows; }
  __device__ int per_token() const { return columns() / Config::kEach; }
  __device__ int token(int i) const {
    const int half = i / (Config::kRows / 2 / Config::kEach);  // a divisor that the compiler knows
    return swiglu ? half : half / 2;
  }
  __device__ int column(int i) const { return (i - token(i) * per_token()) * Config::kEach; }
  /// Of gate, or the only one; eight rows of gate alternate with eight of up.
  __device__ int row(int column) const { return swiglu ? column / 8 * 16 + column % 8 : column; }
};

/// Adds up the warps' sums of a row tile, always in the order of their first turns (kernels/turns/order.h), and stores
/// them, kNamed: through the steps of the epilogue.
template <bool kNamed, class Config>
__device__ void reduce_and_store(const epilogue::Store<typename Config::Element>& store, const Sums<Config>& sums,
                                 int row_tile, int first_warp, bool reused,
                                 float* partial /* [kWarps][kRoundTokens][kPitch] */, Inputs<Config>& inputs) {
  constexpr int kTokens = Config::kRoundTokens;
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  float* own = partial + warp * kTokens * Config::kPitch + lane % 4 * 2 * Config::kPitch + lane / 4;
  constexpr int kRounds = Config::kTokens / kTokens;
  constexpr int kUnrolled = kNamed ? 1 : kRounds;  // the steps of an epilogue are too long to be there more than once
#pragma unroll kUnrolled
  for (int round = 0; round < kRounds; ++round) {
    const int first = round * kTokens;
    if (first >= store.m) break;
    if (round > 0 || reused) __syncthreads();  // what was there has been read
#pragma unroll
    for (int o = 0; o < Config::kTokens / 8; ++o) {
      if (o * 8 / kTokens != round) continue;  // a register's index is known to the compiler
#pragma unroll
      for (int s = 0; s < Config::kStrips; ++s) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          own[(o * 8 % kTokens + i % 2) * Config::kPitch + s * 16 + i / 2 * 8] = sums.value[s][o][i];
        }
      }
    }
    const auto sum_of = [&](int token, int feature, auto zero) {
      using Number = decltype(zero);  // float, or float4 of neighbouring features
      const auto of_turn = [&](int w) {
        const int from = (first_warp + w) % Config::kWarps;
        return *reinterpret_cast<const Number*>(partial + (from * kTokens + token) * Config::kPitch + feature);
      };
      Number sum = zero;
#pragma unroll
      for (int w = 0; w < Config::kWarps; w += 2) sum = plus(sum, plus(of_turn(w), of_turn(w + 1)));
      return sum;
    };
    const int tokens = min(kTokens, store.m - first);
    if constexpr (!kNamed) {
      __syncthreads();
      constexpr int kPerToken = Config::kRows / 4;
#pragma unroll 1
      for (int i = static_cast<int>(threadIdx.x); i < tokens * kPerToken; i += Config::kThreads) {
        const int token = i / kPerToken;
        const int feature = i % kPerToken * 4;
        store.round(first + token, row_tile * Config::kRows + feature, sum_of(token, feature, float4{0, 0, 0, 0}));
      }
    } else {
      using Number = std::conditional_t<Config::kEach == 4, float4, float>;
      using Each = const float(&)[Config::kEach];
      const Items<Config> items{store.swiglu()};
      const int first_column = row_tile * items.columns();
      const int count = tokens * items.per_token();
      const int own = kernels::afresh(static_cast<int>(threadIdx.x));
      const auto fetch = [&](int i) {
        inputs = store.template inputs<Config::kEach>(first + items.token(i), first_column + items.column(i));
      };
      if (own < count && (round > 0 || !Config::kFetchAhead)) fetch(own);
      __syncthreads();
#pragma unroll 1
      for (int i = own; i < count; i += Config::kThreads) {
        if (i != own) fetch(i);
        const int token = items.token(i);
        const int column = items.column(i);
        Number sums = {};
        Number up = {};
#pragma unroll 1  // as a branch, its instructions would run without effect
        for (int part = items.swiglu ? 1 : 0; part >= 0; --part) {
          up = sums;
          sums = sum_of(token, items.row(column) + part * 8, Number{});
        }
        store.finish(first + token, first_column + column, reinterpret_cast<Each>(sums), reinterpret_cast<Each>(up),
                     inputs);
      }
    }
  }
}

/// The row tiles of a CTA, one after the other.
template <bool kNamed, bool kFractional, class Config>
__device__ void multiply_rows(const Params<Config>& p, stream::Ring<Config>& ring, stream::SlotCursor<Config> cursor,
                              int first, int end, float* partial) {
  const Multiplier<Config, kFractional> multiply(p.groups);
  int first_warp = 0;  // that takes the first turn of a row tile
  for (int row_tile = first; row_tile < end; ++row_tile) {
    Inputs<Config> inputs;
    if constexpr (kNamed && Config::kFetchAhead) {
      // Behind the weights of a ring memory takes its time: what is fetched here is there when the sums are.
      const Items<Config> items{p.store.swiglu()};
      const int own = static_cast<int>(threadIdx.x);
      if (items.token(own) < p.store.m) {
        inputs =
            p.store.template inputs<Config::kEach>(items.token(own), row_tile * items.columns() + items.column(own));
      }
    }
    Sums<Config> sums = {};
    Group<Config> group = {};
    while (cursor.row_tile == row_tile) {
      ring.wait();
      multiply(ring, cursor, sums, group);
      ring.release();
      cursor.advance(p.slots_of_k);
    }
    if (threadIdx.x == 0) p.timeline.mark(kernels::kMultiplied);
    reduce_and_store<kNamed>(p.store, sums, row_tile, first_warp, row_tile > first, partial, inputs);
    first_warp = (first_warp + p.slots_of_k / Config::kTurnSlots) % Config::kWarps;
  }
}

/// kNamed: with the steps of an epilogue, which those who only round are not to carry: code that is not there need not
/// be fetched.
template <class Config, bool kNamed>
__global__ void __launch_bounds__(Config::kThreads, 1) batch(const __grid_constant__ Params<Config> p) {
  extern __shared__ std::uint8_t unaligned[];
  std::uint8_t* raw = unaligned + (-cute::cast_smem_ptr_to_uint(unaligned) & (SharedLayout<Config>::kAlignment - 1));
  const int warp = __shfl_sync(~0u, static_cast<int>(threadIdx.x) / 32, 0);

  // Dependents may be launched at once: they find no room beside this CTA, and take its place when it leaves.
  asm volatile("griddepcontrol.launch_dependents;");
  if (threadIdx.x == 0) p.timeline.mark(kernels::kStarted);

  const int first = p.row_tiles.first(static_cast<int>(blockIdx.x));
  const int end = p.row_tiles.first(static_cast<int>(blockIdx.x) + 1);
  stream::SlotCursor<Config> cursor(first, warp, p.slots_of_k);
  stream::Ring<Config> ring(p.maps, p.groups, p.shared.ring, raw, warp, p.slots_of_k, end, cursor);
  ring.initialise();
  ring.prefetch_weights(p.early_slots);
  asm volatile("griddepcontrol.wait;" ::: "memory");  // the activations are there
  if (threadIdx.x == 0) p.timeline.mark(kernels::kDependencyMet);
  ring.fill(p.early_slots);
  if (p.timeline.moments != nullptr) {
    if (cursor.row_tile < end) ring.wait();  // a warp may have no slot at all
    if (threadIdx.x == 0) p.timeline.mark(kernels::kActivationsThere);
  }

  auto* partial = reinterpret_cast<float*>(raw + p.shared.partial);
  constexpr bool kMayBeFractional = Config::Converter::kZeroPoints;
  if (kMayBeFractional && p.fractional_zero_points) {
    multiply_rows<kNamed, kMayBeFractional>(p, ring, cursor, first, end, partial);
  } else {
    multiply_rows<kNamed, false>(p, ring, cursor, first, end, partial);
  }
  if (threadIdx.x == 0) p.timeline.mark(kernels::kDone);
}

}  // namespace machete::batch
