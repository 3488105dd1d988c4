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

  Element (*buffers)[kTokens * 64];  // two, for steps together or by turns
  int warpgroup;
  int lane;  // of the warpgroup

  /// Stores the tile whose first row and token these are, of which D has `store`'s part, through a tree of visitors.
  /// `source` may hold the tile's residual (kernels/gemm/source.cuh). kKnown: with code of its own for each case that
  /// the tree is Known for, which is faster, and takes the longer to compile.
  template <class Tree, bool kKnown, class Accumulators, class Source>
  __device__ __forceinline__ void drain(const typename Tree::Params& tree,
                                        Accumulators& accumulators /* ((2,2,BLK_M/8),MMA_N,1), lost */,
                                        const Store<Element>& store, const Source& source, int first_row,
                                        int first_token) const {
    if (!Out::serves(store, source.there())) {
      put_any<Tree>(tree, accumulators, store, source, first_row, first_token);
    } else if constexpr (kKnown) {
      Known<Tree>::template with<Config::kBytes>(tree, [&](const auto& known, auto straight) {
        put_eights<Tree, decltype(straight)::value>(known, accumulators, store, source, first_row, first_token);
      });
    } else {
      put_eights<Tree, true>(tree, accumulators, store, source, first_row, first_token);
    }
    cutlass::arch::NamedBarrier::sync(128, warpgroup);
  }

 private:
  struct Turned {
    uint4 steps[kTogether];
  };

  /// Where a lane stores its eights of fragments of 16 bits, of tokens that follow each other.
  struct Out {
    /// Whether all rows of D are whole eights, on 16 bytes, and their residual, if there is one, is in them.
    __device__ static bool serves(const Store<Element>& store, bool source) {
      return store.aligned && store.columns % 8 == 0 && is_16_bits(store.d_type) &&
             (store.operands.residual == nullptr || source);
    }

    Element* at;          // of the first token and atom
    std::int64_t stride;  // of a step's tokens
    int atom;             // from one atom's eight to the next one's
    int tokens;           // from the lane's first one on, that there are
    bool rows[Config::kAtoms];

    __device__ Out(const Staging& staging, const Store<Element>& store, int first_row, int first_token) {
      const int token = first_token + staging.token_of(0);
      const int row = first_row + staging.row_of(0);
      at = static_cast<Element*>(store.d) + token * store.ldd + column_of(store, row);
      stride = kTokens * store.ldd;
      atom = column_of(store, Config::kWarpgroups * 64);
      tokens = store.m - token;
#pragma unroll
      for (int i = 0; i < Config::kAtoms; ++i) {
        rows[i] = holds(store, row) && column_of(store, row) + i * atom < store.columns;
      }
    }

    /// Stores a fragment and goes on to the next.
    __device__ __forceinline__ void put(const Turned& turned) {
#pragma unroll
      for (int step = 0; step < kTogether; ++step) {
        const int i = step % Config::kAtoms;
        if (rows[i] && tokens > 0) *reinterpret_cast<uint4*>(at + i * atom) = turned.steps[step];
        if (i == Config::kAtoms - 1) {
          at += stride;
          tokens -= kTokens;
        }
      }
    }
  };

  /// Into a D of whole eights. kStraight: one fragment after the other without a loop, so that registers need no index,
  /// which is faster by 2% of a large tile; in a loop each comes to where the first one was, which is less code.
  template <class Tree, bool kStraight, class Accumulators, class Source>
  __device__ __forceinline__ void put_eights(const typename Tree::Params& tree, Accumulators& accumulators,
                                             const Store<Element>& store, const Source& source, int first_row,
                                             int first_token) const {
    Tensor residual = make_tensor<Element>(Int<LaneOfTile::kFragment>{});  // (kFragment)
    if (!kStraight) clear(residual);
    auto callbacks = callbacks_of(Tree(tree, {}), place(store, first_row, first_token), residual);
    callbacks.begin();
    Out out(*this, store, first_row, first_token);
#pragma unroll(kStraight ? kFragments : 1)
    for (int fragment = 0; fragment < kFragments; ++fragment) {
      if (first_token + fragment * LaneOfTile::kTokens >= store.m) break;
      if (fragment > 0) callbacks.end_loop(0, fragment - 1);
      if (source.there()) fetch(source, fragment, residual);
      const Values values = visit<Tree>(callbacks, accumulators, store, kStraight ? fragment : 0, fragment);
      if (fragment > 0) cutlass::arch::NamedBarrier::sync(128, warpgroup);  // what was there has been read
      const Turned turned = turn(values);
      if constexpr (!kStraight && kFragments > 1) bring<1, kFragments - 1>(fragment + 1, accumulators);
      out.put(turned);
    }
    callbacks.end();
  }

  /// Into any D, in a loop.
  template <class Tree, class Accumulators, class Source>
  __device__ __forceinline__ void put_any(const typename Tree::Params& tree, Accumulators& accumulators,
                                          const Store<Element>& store, const Source& source, int first_row,
                                          int first_token) const {
    Tensor residual = make_tensor<Element>(Int<LaneOfTile::kFragment>{});  // (kFragment)
    clear(residual);
    auto callbacks = callbacks_of(Tree(tree, {}), place(store, first_row, first_token), residual);
    callbacks.begin();
#pragma unroll 1
    for (int fragment = 0; fragment < kFragments; ++fragment) {
      const int token = first_token + fragment * LaneOfTile::kTokens;
      if (token >= store.m) break;
      if (fragment > 0) callbacks.end_loop(0, fragment - 1);
      if (source.there()) fetch(source, fragment, residual);
      const Values values = visit<Tree>(callbacks, accumulators, store, 0, fragment);
      const Staging here{buffers, warpgroup, kernels::afresh(lane)};
      const bool late = store.operands.residual != nullptr && !source.there();
      if constexpr (std::is_same_v<Tree, NoTree>) {
        here.put_some(values, fragment, store, first_row, token);
      } else if (is_16_bits(store.d_type) && !late) {
        here.put_some(values, fragment, store, first_row, token);
      } else {
        here.put_wide(values, store, late, first_row, token);
      }
      if constexpr (kFragments > 1) bring<1, kFragments - 1>(fragment + 1, accumulators);
    }
    callbacks.end();
  }

  __device__ LaneOfTile place(const Store<Element>& store, int first_row, int first_token) const {
    return {first_row + warpgroup * 64 + lane / 32 * 16 + lane % 32 / 4, first_token + lane % 4 * 2, store.m, store.n,
            store.swiglu()};
  }

  /// A fragment through a tree. at: where it is among the accumulators.
  template <class Tree, class Callbacks, class Accumulators>
  __device__ static Values visit(Callbacks& callbacks, const Accumulators& accumulators, const Store<Element>& store,
                                 int at, int fragment) {
    Values sums;
#pragma unroll
    for (int f = 0; f < LaneOfTile::kFragment; ++f) {
      sums[f] = (kHasFactor<Tree> ? 1.f : store.factor) * sum(accumulators, at * kTogether + f / 8, f % 8);
    }
    callbacks.begin_loop(0, fragment);
    return callbacks.visit(sums, 0, 0, fragment);
  }
  static constexpr int kFragments = kSteps / kTogether;

  /// Element f of a step: the accumulators of an atom are compact, as token of a pair, half of the strip, octet.
  template <class Accumulators>
  __device__ static auto& sum(Accumulators& accumulators, int step, int f) {
    return accumulators.data()[step % Config::kAtoms * (Config::kTileM / 2) + step / Config::kAtoms * 8 + f];
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

  /// A fragment, rounded and turned: of each step eight rows of a token.
  __device__ __forceinline__ Turned turn(const Values& values) const {
#pragma unroll
    for (int step = 0; step < kTogether; ++step) write(buffers[step], step_of(values, step));
    cutlass::arch::NamedBarrier::sync(128, warpgroup);
    Turned turned;
#pragma unroll
    for (int step = 0; step < kTogether; ++step) turned.steps[step] = read(buffers[step]);
    return turned;
  }

  /// Stores what D has, of 16 bits, of a fragment whose first token this is.
  __device__ __forceinline__ void put_some(const Values& values, int fragment, const Store<Element>& store,
                                           int first_row, int token) const {
#pragma unroll 1
    for (int step = 0; step < kTogether; ++step) {
      const uint4 rounded = turn(one_of(values, step), fragment * kTogether + step);
      const int row = first_row + row_of(step);
      if (holds(store, row)) store(token + token_of(step), column_of(store, row), rounded);
    }
  }

  /// The same of any type. late: the residual is still to be added.
  __device__ __forceinline__ void put_wide(const Values& values, const Store<Element>& store, bool late, int first_row,
                                           int token) const {
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
    return read(buffer);
  }
  __device__ uint4 read(const Element* buffer) const {
    return reinterpret_cast<const uint4*>(buffer)[place_of(lane / 8, lane % 8)];
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
