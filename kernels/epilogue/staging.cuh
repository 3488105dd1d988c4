#pragma once

#include <cutlass/arch/barrier.h>
#include <cutlass/numeric_conversion.h>

#include <cute/arch/copy_sm90.hpp>
#include <cute/tensor.hpp>
#include <type_traits>

#include "kernels/epilogue/store.cuh"
#include "kernels/epilogue/visitors.cuh"

namespace machete::epilogue {

using namespace cute;  // NOLINT(google-build-using-namespace)

/// The way of a warpgroup's accumulators to D: through the epilogue and rounded in registers, where a lane holds two
/// rows (features) of two tokens; turned by stmatrix, through shared memory laid out [token][64 features], 16 bytes
/// that a token's low bits permute against bank conflicts; then out in 16 bytes a lane, 128 of a token. What comes of a
/// long tree goes that way as floats, and is rounded behind it, to whatever D is of.
///
/// Each warpgroup goes its own way, so that one may store while the other still multiplies.
template <class Config>
struct Staging {
  using Element = typename Config::Element;
  static constexpr int kTokens = Config::kStagingTokens;
  static_assert(kTokens == 16, "one stmatrix a warp");
  using LaneOfTile = Lane<Config::kAtoms, Config::kWarpgroups * 64>;
  using Values = Fragment<LaneOfTile>;

  Element (*buffers)[kTokens * 64];  // two, in turn
  int warpgroup;
  int lane;  // of the warpgroup

  /// Stores the tile whose first row and token these are, of which D has `store`'s part: through a tree of visitors or
  /// epilogue::NoTree, the fastest way that there is for it.
  template <class Tree, class Accumulators>
  __device__ __forceinline__ void drain(const typename Tree::Params& tree,
                                        const Accumulators& accumulators /* ((2,2,BLK_M/8),MMA_N,1) */,
                                        const Store<Element>& store, int first_row, int first_token) const {
    if constexpr (std::is_same_v<Tree, NoTree>) {
      round(accumulators, store, first_row, first_token);
    } else {
      const auto callbacks = callbacks_of(Tree(tree, {}), lane_of(store, first_row, first_token));
      if constexpr (kIsShort<Tree>) {
        visit_unrolled<Tree>(callbacks, accumulators, store, first_row, first_token);
      } else {
        visit(callbacks, accumulators, store, first_row, first_token);
      }
    }
  }

 private:
  /// What the lane holds of the tile whose first row and token these are.
  __device__ LaneOfTile lane_of(const Store<Element>& store, int first_row, int first_token) const {
    return {first_row + warpgroup * 64 + lane / 32 * 16 + lane % 32 / 4, first_token + lane % 4 * 2, store.m, store.n,
            store.swiglu()};
  }

  /// Stores the tokens of the tile that there are, rounded sums as they are: unrolled, since registers have no index.
  template <class Accumulators>
  __device__ __forceinline__ void round(const Accumulators& accumulators, const Store<Element>& store, int first_row,
                                        int first_token) const {
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
      if (first_token + step / Config::kAtoms * kTokens >= store.m) break;
      const Values sums = sums_of(accumulators, step, store.factor);
      store(first_token + token_of(step), first_row + row_of(step), turn(sums, step));
    }
    cutlass::arch::NamedBarrier::sync(128, warpgroup);
  }

  /// Through the visitors of a short tree.
  template <class Tree, class Accumulators, class Callbacks>
  __device__ __forceinline__ void visit_unrolled(Callbacks callbacks, const Accumulators& accumulators,
                                                 const Store<Element>& store, int first_row, int first_token) const {
    constexpr bool kPairs = Tree::kActivation == Activation::kSwiglu;  // every second eight rows then hold nothing
    callbacks.begin();
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
      const int chunk = step / Config::kAtoms;
      if (first_token + chunk * kTokens >= store.m) break;
      const int atom = step % Config::kAtoms;
      callbacks.begin_loop(atom, chunk);
      const Values values = callbacks.visit(sums_of(accumulators, step, store.factor), 0, atom, chunk);
      callbacks.end_loop(atom, chunk);
      const uint4 rounded = turn(values, step);
      const int row = first_row + row_of(step);
      if (!kPairs || row % 16 == 0) {
        store(first_token + token_of(step), kPairs ? row / 2 : row, rounded);
      }
    }
    callbacks.end();
    cutlass::arch::NamedBarrier::sync(128, warpgroup);
  }

  /// Through the visitors of any tree, whose code is too long to be there more than once.
  template <class Accumulators, class Callbacks>
  __device__ __forceinline__ void visit(Callbacks callbacks, const Accumulators& accumulators,
                                        const Store<Element>& store, int first_row, int first_token) const {
    callbacks.begin();
#pragma unroll 1
    for (int step = 0; step < kSteps; ++step) {
      const int atom = step % Config::kAtoms;
      const int chunk = step / Config::kAtoms;
      if (first_token + chunk * kTokens >= store.m) break;
      const int token = first_token + token_of(step);
      const int row = first_row + row_of(step);
      const int column = store.swiglu() ? row / 2 : row;
      typename Store<Element>::template Residual<8> residual;
      if constexpr (kAhead) residual = store.template residual<8>(token, column);
      callbacks.begin_loop(atom, chunk);
      const Values values = callbacks.visit(select<0, kSteps>(accumulators, step, store.factor), 0, atom, chunk);
      callbacks.end_loop(atom, chunk);
      if constexpr (!kAhead) residual = store.template residual<8>(token, column);
      float neighbours[8];
      turn_floats(values, neighbours);
      // After swiglu every second eight rows hold nothing.
      if (!store.swiglu() || row % 16 == 0) store.finish(token, column, neighbours, residual);
    }
    callbacks.end();
    cutlass::arch::NamedBarrier::sync(128, warpgroup);
  }

  static constexpr bool kAhead = Config::kWarpgroups == 2;  // three have no registers for what is fetched ahead
  static constexpr int kSteps = Config::kTileM / kTokens * Config::kAtoms;  // atom by atom, chunk by chunk

  template <class Accumulators>
  __device__ static Values sums_of(const Accumulators& accumulators, int step, float factor) {
    Values values;
#pragma unroll
    for (int f = 0; f < LaneOfTile::kFragment; ++f) {
      values[f] = factor * accumulators(make_coord(f % 2, LaneOfTile::half(f), step / Config::kAtoms * 2 + f / 4),
                                        step % Config::kAtoms, _0{});
    }
    return values;
  }

  /// Those of a step that the compiler does not know, by halves.
  template <int kFirst, int kCount, class Accumulators>
  __device__ static Values select(const Accumulators& accumulators, int step, float factor) {
    if constexpr (kCount == 1) {
      return sums_of(accumulators, kFirst, factor);
    } else {
      constexpr int kHalf = kCount / 2;
      if (step < kFirst + kHalf) return select<kFirst, kHalf>(accumulators, step, factor);
      return select<kFirst + kHalf, kCount - kHalf>(accumulators, step, factor);
    }
  }

  /// Rounds what the lanes hold and gives each eight rows of one token: row_of(step) and on of token_of(step).
  __device__ uint4 turn(const Values& values, int step) const {
    Element* buffer = buffers[step % 2];
    write(buffer, values);
    // Of two buffers in turn, the one written next was read before this barrier.
    cutlass::arch::NamedBarrier::sync(128, warpgroup);
    const int token = lane / 8;
    return reinterpret_cast<const uint4*>(buffer)[token * 8 + (lane % 8 ^ token % 8)];
  }
  __device__ int token_of(int step) const { return step / Config::kAtoms * kTokens + lane / 8; }
  __device__ int row_of(int step) const {
    return (step % Config::kAtoms * Config::kWarpgroups + warpgroup) * 64 + lane % 8 * 8;
  }

  __device__ void write(Element* buffer, const Values& values) const {
    std::uint32_t matrix[4];  // 8 tokens x 8 features each: (octet of tokens, half of the strip)
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      cutlass::Array<float, 2> pair;
      pair[0] = values[i * 2];
      pair[1] = values[i * 2 + 1];
      const auto rounded = cutlass::NumericArrayConverter<Element, float, 2>::convert(pair);
      matrix[i] = reinterpret_cast<const std::uint32_t&>(rounded);
    }
    // Lane l gives the address of row l % 8 (a token) of matrix l / 8.
    const int l = lane % 32;
    const int token = l / 16 * 8 + l % 8;
    const int chunk = lane / 32 * 2 + l / 8 % 2;
    auto& row = reinterpret_cast<uint128_t*>(buffer)[token * 8 + (chunk ^ token % 8)];
    SM90_U16x8_STSM_T::copy(matrix[0], matrix[1], matrix[2], matrix[3], row);
  }

  /// As turn(), unrounded: floats lie in both buffers, a token's eights of rows where its bits put them.
  __device__ void turn_floats(const Values& values, float (&out)[8]) const {
    auto* buffer = reinterpret_cast<float*>(buffers[0]);  // [token][eight of rows][8]
    const auto place = [](int token, int eight) { return token * 64 + (eight ^ token / 2 % 4) * 8; };
    cutlass::arch::NamedBarrier::sync(128, warpgroup);  // what was there has been read
#pragma unroll
    for (int f = 0; f < LaneOfTile::kFragment; ++f) {
      buffer[place(lane % 4 * 2 + f % 2 + f / 4 * 8, lane / 32 * 2 + LaneOfTile::half(f)) + lane % 32 / 4] = values[f];
    }
    cutlass::arch::NamedBarrier::sync(128, warpgroup);
    const auto* from = reinterpret_cast<const float4*>(buffer + place(lane / 8, lane % 8));
    reinterpret_cast<float4*>(out)[0] = from[0];
    reinterpret_cast<float4*>(out)[1] = from[1];
  }
};

}  // namespace machete::epilogue
