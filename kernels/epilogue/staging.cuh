#pragma once

#include <cutlass/arch/barrier.h>
#include <cutlass/numeric_conversion.h>

#include <cute/arch/copy_sm75.hpp>
#include <cute/arch/copy_sm90.hpp>
#include <cute/tensor.hpp>
#include <type_traits>

#include "kernels/afresh.h"
#include "kernels/epilogue/lane.cuh"
#include "kernels/epilogue/store.cuh"
#include "kernels/epilogue/visitors.cuh"

namespace machete::epilogue {

using namespace cute;  // NOLINT(google-build-using-namespace)

/// The way of a warpgroup's accumulators to D: through the epilogue and rounded in registers, where a lane holds two
/// rows (features) of two tokens; turned by stmatrix, through shared memory laid out [token][64 features], 16 bytes
/// that a token's low bits permute against bank conflicts; then out in 16 bytes a lane, 128 of a token. What does not
/// become 16 bits goes that way as floats, each warp's by itself, and is rounded behind it.
///
/// Each warpgroup goes its own way, so that one may store while the other still multiplies.
template <class Config>
struct Staging {
  using Element = typename Config::Element;
  static constexpr int kTokens = Config::kStagingTokens;  // of a step
  static_assert(kTokens == 16, "one stmatrix a warp");
  static constexpr int kSteps = Config::kTileM / kTokens * Config::kAtoms;  // atom by atom, token by token
  // Steps that go through a tree together: registers allow no more.
  static constexpr int kTogether = kSteps % 2 == 0 ? 2 : 1;
  static_assert(kSteps % kTogether == 0 && kTogether % Config::kAtoms == 0);
  using LaneOfTile = Lane<Config::kAtoms, Config::kWarpgroups * 64, kTogether>;
  using Values = Fragment<LaneOfTile>;
  using StepValues = cutlass::Array<float, 8>;

  Element (*buffers)[kTokens * 64];  // two, in turn
  int warpgroup;
  int lane;  // of the warpgroup

  /// Stores the tile whose first row and token these are, of which D has `store`'s part: through a tree of visitors or
  /// epilogue::NoTree. `source` may hold the tile's residual (kernels/gemm/source.cuh).
  template <class Tree, class Accumulators, class Source>
  __device__ __forceinline__ void drain(const typename Tree::Params& tree,
                                        Accumulators& accumulators /* ((2,2,BLK_M/8),MMA_N,1), lost */,
                                        const Store<Element>& store, const Source& source, int first_row,
                                        int first_token) const {
    if constexpr (std::is_same_v<Tree, NoTree>) {
      round(accumulators, store, first_row, first_token);
    } else {
      visit<Tree>(tree, accumulators, store, source, first_row, first_token);
    }
  }

 private:
  /// Stores the tokens of the tile that there are, rounded sums as they are: unrolled, since registers have no index.
  template <class Accumulators>
  __device__ __forceinline__ void round(const Accumulators& accumulators, const Store<Element>& store, int first_row,
                                        int first_token) const {
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
      if (first_token + step / Config::kAtoms * kTokens >= store.m) break;
      StepValues sums;
#pragma unroll
      for (int f = 0; f < 8; ++f) sums[f] = store.factor * sum(accumulators, step, f);
      store(first_token + token_of(step), first_row + row_of(step), turn(sums, step));
    }
    cutlass::arch::NamedBarrier::sync(128, warpgroup);
  }

  /// Through the visitors of a tree, steps together: a loop, since all steps at once are more code than an SM keeps at
  /// hand, and waiting for it took longer than the work. Registers have no index, so a fragment comes to where the
  /// first one was.
  template <class Tree, class Accumulators, class Source>
  __device__ __forceinline__ void visit(const typename Tree::Params& tree, Accumulators& accumulators,
                                        const Store<Element>& store, const Source& source, int first_row,
                                        int first_token) const {
    const LaneOfTile place = {first_row + warpgroup * 64 + lane / 32 * 16 + lane % 32 / 4, first_token + lane % 4 * 2,
                              store.m, store.n, store.swiglu()};
    Tensor residual = make_tensor<Element>(Int<LaneOfTile::kFragment>{});  // (kFragment)
    clear(residual);
    Element* out = nullptr;  // of the lane's first eight, where D has all rows of the tile
    if (store.aligned && is_16_bits(store.d_type) && (store.operands.residual == nullptr || source.there()) &&
        first_row + Config::kTileN <= store.n) {
      out = static_cast<Element*>(store.d) + (first_token + token_of(0)) * store.ldd +
            column_of(store, first_row + row_of(0));
    }
    auto callbacks = callbacks_of(Tree(tree, {}), place, residual);
    callbacks.begin();
#pragma unroll 1
    for (int fragment = 0; fragment < kFragments; ++fragment) {
      const int token = first_token + fragment * LaneOfTile::kTokens;
      if (token >= store.m) break;
      if (source.there()) fetch(source, fragment, residual);
      Values sums;
#pragma unroll
      for (int f = 0; f < LaneOfTile::kFragment; ++f) {
        sums[f] = (kHasFactor<Tree> ? 1.f : store.factor) * sum(accumulators, f / 8, f % 8);
      }
      callbacks.begin_loop(0, fragment);
      const Values values = callbacks.visit(sums, 0, 0, fragment);
      callbacks.end_loop(0, fragment);
      if (out != nullptr && token + LaneOfTile::kTokens <= store.m) {
        put(values, fragment, out, store);
      } else {
        Staging{buffers, warpgroup, kernels::afresh(lane)}.put_any(values, fragment, store, source.there(), first_row,
                                                                   token);
      }
      if (out != nullptr) out += LaneOfTile::kTokens * store.ldd;
      if constexpr (kFragments > 1) bring<1, kFragments - 1>(fragment + 1, accumulators);
    }
    callbacks.end();
    cutlass::arch::NamedBarrier::sync(128, warpgroup);
  }
  static constexpr int kFragments = kSteps / kTogether;

  /// Element f of a step.
  template <class Accumulators>
  __device__ static decltype(auto) sum(Accumulators& accumulators, int step, int f) {
    return accumulators(make_coord(f % 2, LaneOfTile::half(f), step / Config::kAtoms * 2 + f / 4),
                        step % Config::kAtoms, _0{});
  }

  /// Puts a fragment that the compiler does not know, of kCount from kFirst on, in the place of the first.
  template <int kFirst, int kCount, class Accumulators>
  __device__ static void bring(int fragment, Accumulators& accumulators) {
    if constexpr (kCount == 1) {
#pragma unroll
      for (int f = 0; f < LaneOfTile::kFragment; ++f) {
        sum(accumulators, f / 8, f % 8) = sum(accumulators, kFirst * kTogether + f / 8, f % 8);
      }
    } else if (fragment < kFirst + kCount / 2) {
      bring<kFirst, kCount / 2>(fragment, accumulators);
    } else {
      bring<kFirst + kCount / 2, kCount - kCount / 2>(fragment, accumulators);
    }
  }

  /// The residual of a fragment, from the ring. Lane l gives the address of row l % 8 (a token) of matrix l / 8: octet
  /// of tokens, half of the strip.
  template <class Source, class Residual>
  __device__ void fetch(const Source& source, int fragment, Residual& residual /* (kFragment) */) const {
    Tensor matrices = recast<std::uint32_t>(residual);  // (kFragment/2): 8 tokens x 8 features each
    const int l = lane % 32;
#pragma unroll
    for (int step = 0; step < kTogether; ++step) {
      const int token = fragment * LaneOfTile::kTokens + step / Config::kAtoms * kTokens + l / 16 * 8 + l % 8;
      const uint128_t* box = source.box(step % Config::kAtoms, warpgroup);  // [token][64 rows]
      SM75_U16x8_LDSM_T::copy(box[place_of(token, lane / 32 * 2 + l / 8 % 2)], matrices(step * 4),
                              matrices(step * 4 + 1), matrices(step * 4 + 2), matrices(step * 4 + 3));
    }
  }

  /// The columns of D that packed rows become: of pairs every second eight rows hold nothing.
  __device__ static bool holds(const Store<Element>& store, int row) { return !store.swiglu() || row % 16 == 0; }
  __device__ static int column_of(const Store<Element>& store, int row) { return store.swiglu() ? row / 2 : row; }

  /// Stores a fragment all of which D has, 16 bits each, the lane's first eight at `out`.
  __device__ __forceinline__ void put(const Values& values, int fragment, Element* out,
                                      const Store<Element>& store) const {
    const bool own = holds(store, row_of(0));
#pragma unroll
    for (int step = 0; step < kTogether; ++step) {
      const uint4 rounded = turn(step_of(values, step), fragment * kTogether + step);
      Element* at = out + step / Config::kAtoms * kTokens * store.ldd +
                    column_of(store, step % Config::kAtoms * Config::kWarpgroups * 64);
      if (own) *reinterpret_cast<uint4*>(at) = rounded;
    }
  }

  /// Stores what D has of a fragment whose first token this is. added: the residual is in it, if there is one.
  __device__ __forceinline__ void put_any(const Values& values, int fragment, const Store<Element>& store, bool added,
                                          int first_row, int token) const {
    const bool late = store.operands.residual != nullptr && !added;
    if (is_16_bits(store.d_type) && !late) {
#pragma unroll 1
      for (int step = 0; step < kTogether; ++step) {
        const uint4 rounded = turn(one_of(values, step), fragment * kTogether + step);
        const int row = first_row + row_of(step);
        if (holds(store, row)) store(token + token_of(step), column_of(store, row), rounded);
      }
      return;
    }
#pragma unroll 1
    for (int step = 0; step < kTogether; ++step) {
      const Staging here{buffers, warpgroup, kernels::afresh(lane)};
      float neighbours[8];
      here.turn_wide(one_of(values, step), neighbours);
      const int row = first_row + here.wide_row_of(step);
      const int column = column_of(store, row);
      if (!holds(store, row)) continue;
      if (late) store.add(store.template residual<8>(token + here.wide_token_of(step), column), neighbours);
      store.finish(token + here.wide_token_of(step), column, neighbours);
    }
  }
  /// That of a step which the compiler does not know.
  __device__ static StepValues one_of(const Values& values, int step) {
    return step == 0 ? step_of(values, 0) : step_of(values, kTogether - 1);
  }

  __device__ static StepValues step_of(const Values& values, int step) {
    StepValues result;
#pragma unroll
    for (int f = 0; f < 8; ++f) result[f] = values[step * 8 + f];
    return result;
  }

  /// Rounds what the lanes hold and gives each eight rows of one token: row_of(step) and on of token_of(step).
  __device__ uint4 turn(const StepValues& values, int step) const {
    Element* buffer = buffers[step % 2];
    write(buffer, values);
    // Of two buffers in turn, the one written next was read before this barrier.
    cutlass::arch::NamedBarrier::sync(128, warpgroup);
    const int token = lane / 8;
    return reinterpret_cast<const uint4*>(buffer)[place_of(token, lane % 8)];
  }
  __device__ int token_of(int step) const { return step / Config::kAtoms * kTokens + lane / 8; }
  __device__ int row_of(int step) const {
    return (step % Config::kAtoms * Config::kWarpgroups + warpgroup) * 64 + lane % 8 * 8;
  }

  __device__ void write(Element* buffer, const StepValues& values) const {
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
    auto& row = reinterpret_cast<uint128_t*>(buffer)[place_of(token, lane / 32 * 2 + l / 8 % 2)];
    SM90_U16x8_STSM_T::copy(matrix[0], matrix[1], matrix[2], matrix[3], row);
  }

  /// As turn(), unrounded and without the other warps: eight rows, wide_row_of(step) and on, of wide_token_of(step). Of
  /// two tokens a warp's 16 rows are four eights, that the next tokens' bits permute against bank conflicts.
  __device__ void turn_wide(const StepValues& values, float (&out)[8]) const {
    auto* buffer = reinterpret_cast<float*>(buffers[0]) + lane / 32 * (kTokens * 16);  // [pair of tokens][4][8]
    const auto place = [](int token, int eight) {
      return token / 2 * 32 + ((token % 2 * 2 + eight) ^ token / 2 % 4) * 8;
    };
    const auto swap = [](int token) { return token / 2 % 2 * 4; };  // the halves of an eight
    __syncwarp();                                                   // what was there has been read
#pragma unroll
    for (int f = 0; f < 8; ++f) {
      const int token = lane % 4 * 2 + f % 2 + f / 4 * 8;
      buffer[place(token, LaneOfTile::half(f)) + (lane % 32 / 4 ^ swap(token))] = values[f];
    }
    __syncwarp();
    const int token = lane % 32 / 2;
    const float* from = buffer + place(token, lane % 2);
    reinterpret_cast<float4*>(out)[0] = *reinterpret_cast<const float4*>(from + swap(token));
    reinterpret_cast<float4*>(out)[1] = *reinterpret_cast<const float4*>(from + (4 ^ swap(token)));
  }
  __device__ int wide_token_of(int step) const { return step / Config::kAtoms * kTokens + lane % 32 / 2; }
  __device__ int wide_row_of(int step) const {
    return (step % Config::kAtoms * Config::kWarpgroups + warpgroup) * 64 + lane / 32 * 16 + lane % 2 * 8;
  }
};

}  // namespace machete::epilogue
