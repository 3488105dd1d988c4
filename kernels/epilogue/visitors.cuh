#pragma once

/// Nodes for CUTLASS's epilogue visitor trees (EVT) over the GEMM's accumulators, and the tree of the named epilogues.
///
/// A tree is composed of CUTLASS's own Sm90EVT, Sm90Compute and Sm90AccFetch, and of these leaves, which know what an
/// element is from kernels/epilogue/lane.cuh. A user's tree may have leaves of its own in the same manner.

#include <cutlass/epilogue/fusion/sm90_callbacks_tma_warpspecialized.hpp>
#include <type_traits>

#include "kernels/epilogue/activation.cuh"
#include "kernels/epilogue/lane.cuh"
#include "kernels/epilogue/operands.h"
#include "kernels/epilogue/store.cuh"

namespace machete::epilogue {

namespace fusion = cutlass::epilogue::fusion;

/// What every leaf without storage and workspace has.
template <class Params_>
struct Leaf {
  struct SharedStorage {};
  using Arguments = Params_;
  using Params = Params_;

  template <class Problem>
  static constexpr Params to_underlying_arguments(const Problem&, const Arguments& arguments, void*) {
    return arguments;
  }
  template <class Problem>
  static bool can_implement(const Problem&, const Arguments&) {
    return true;
  }
  template <class Problem>
  static std::size_t get_workspace_size(const Problem&, const Arguments&) {
    return 0;
  }
  template <class Problem>
  static cutlass::Status initialize_workspace(const Problem&, const Arguments&, void*, cudaStream_t,
                                              cutlass::CudaHostAdapter* = nullptr) {
    return cutlass::Status::kSuccess;
  }

  CUTLASS_HOST_DEVICE Leaf() {}
  CUTLASS_HOST_DEVICE Leaf(const Params& p, const SharedStorage&) : params(p) {}
  CUTLASS_DEVICE bool is_producer_load_needed() const { return false; }
  CUTLASS_DEVICE bool is_C_load_needed() const { return false; }
  template <class... Args>
  CUTLASS_DEVICE auto get_producer_load_callbacks(const fusion::ProducerLoadArgs<Args...>&) {
    return fusion::EmptyProducerLoadCallbacks{};
  }

  Params params;
};

template <class Lane>
using Fragment = cutlass::Array<float, Lane::kFragment>;

template <class Element>
struct VectorParams {
  const Element* values;  // null: all are `missing`
  float missing;
  float factor = 1;  // of either
};

/// One number for each row of W: values[N].
template <class Element>
struct ChannelVector : Leaf<VectorParams<Element>> {
  using Base = Leaf<VectorParams<Element>>;
  using Base::Base;

  template <class Lane>
  struct Callbacks : fusion::EmptyConsumerStoreCallbacks {
    VectorParams<Element> params;
    Lane lane;
    float value[Lane::kAtoms][2];

    CUTLASS_DEVICE Callbacks(const VectorParams<Element>& p, const Lane& l) : params(p), lane(l) {}

    CUTLASS_DEVICE void begin() {
      CUTLASS_PRAGMA_UNROLL
      for (int atom = 0; atom < Lane::kAtoms; ++atom) {
        CUTLASS_PRAGMA_UNROLL
        for (int half = 0; half < 2; ++half) {
          const int channel = lane.channel(half, atom);
          const bool there = params.values != nullptr && channel >= 0;
          value[atom][half] = params.factor * (there ? static_cast<float>(params.values[channel]) : params.missing);
        }
      }
    }
    template <class Accumulator, int kSize>
    CUTLASS_DEVICE Fragment<Lane> visit(const cutlass::Array<Accumulator, kSize>&, int, int, int) const {
      Fragment<Lane> result;
      CUTLASS_PRAGMA_UNROLL
      for (int f = 0; f < Lane::kFragment; ++f) result[f] = value[Lane::atom(f)][Lane::half(f)];
      return result;
    }
  };

  template <bool kReferenceSource, class... Args>
  CUTLASS_DEVICE auto get_consumer_store_callbacks(const fusion::ConsumerStoreArgs<Args...>& args) {
    return Callbacks<cute::remove_cvref_t<decltype(args.epi_tile)>>(this->params, args.epi_tile);
  }
};

struct TokenParams {
  const float* values;  // [M]; null: all are 1
};

/// x times one number for each token. Those of a fragment are fetched while the one before is stored.
struct TokenScale : Leaf<TokenParams> {
  using Leaf<TokenParams>::Leaf;

  template <class Lane>
  struct Callbacks : fusion::EmptyConsumerStoreCallbacks {
    using Tokens = cutlass::Array<float, Lane::kFragment / 2 / Lane::kAtoms>;  // token of a pair + 2 (octet) + 4 (step)

    TokenParams params;
    Lane lane;
    Tokens tokens;

    CUTLASS_DEVICE Callbacks(const TokenParams& p, const Lane& l) : params(p), lane(l) {}

    CUTLASS_DEVICE void begin() {
      if (params.values != nullptr) fetch(0);  // the same for all lanes, here and below
    }
    CUTLASS_DEVICE void end_loop(int, int fragment) {
      if (params.values != nullptr) fetch(fragment + 1);
    }
    template <class Accumulator, int kSize>
    CUTLASS_DEVICE Fragment<Lane> visit(const cutlass::Array<Accumulator, kSize>&, int, int, int,
                                        const Fragment<Lane>& x) const {
      if (params.values == nullptr) return x;
      Fragment<Lane> result;
      CUTLASS_PRAGMA_UNROLL
      for (int f = 0; f < Lane::kFragment; ++f) {
        result[f] = x[f] * tokens[f / 8 / Lane::kAtoms * 4 + f / 4 % 2 * 2 + f % 2];
      }
      return result;
    }

   private:
    CUTLASS_DEVICE void fetch(int fragment) {
      CUTLASS_PRAGMA_UNROLL
      for (int i = 0; i < static_cast<int>(Tokens::kElements); ++i) {
        const int token = lane.token_of(i / 4 * Lane::kAtoms * 8 + i / 2 % 2 * 4 + i % 2, fragment);
        tokens[i] = token < lane.m ? params.values[token] : 0.f;
      }
    }
  };

  template <bool kReferenceSource, class... Args>
  CUTLASS_DEVICE auto get_consumer_store_callbacks(const fusion::ConsumerStoreArgs<Args...>& args) {
    return Callbacks<cute::remove_cvref_t<decltype(args.epi_tile)>>(params, args.epi_tile);
  }
};

struct ActivationKind {
  Activation kind;
};
/// The activation as a compute node; after swiglu the results are where gate was. The kind is looked at once for all
/// elements, so that their computations interleave.
template <class T>
struct ActivationStep {
  using Arguments = ActivationKind;

  template <class Array>
  CUTLASS_DEVICE Array operator()(const Array& x, const Arguments& arguments) const {
    constexpr int kCount = Array::kElements;
    Array result = x;
    if (arguments.kind == Activation::kSwiglu) {
      CUTLASS_PRAGMA_UNROLL
      for (int f = 0; f < kCount; ++f) result[f] = f / 2 % 2 == 0 ? silu(x[f]) * x[f + 2] : 0.f;
    } else {
      activate(arguments.kind, result, kCount);
    }
    return result;
  }
};

struct Presence {
  bool there;
};
/// x + y, where y is there: for all elements or none.
template <class T>
struct AddStep {
  using Arguments = Presence;

  template <class Array>
  CUTLASS_DEVICE Array operator()(const Array& x, const Array& y, const Arguments& arguments) const {
    if (!arguments.there) return x;
    return cutlass::plus<Array>{}(x, y);
  }
};

/// The callbacks of a tree for a lane's fragments, with those of the residual for Sm90SrcFetch. Visitors here have no
/// use for the rest of what CUTLASS gives its own.
template <class Tree, class Lane, class Source>
CUTLASS_DEVICE auto callbacks_of(Tree tree, const Lane& lane, Source& source /* (8) */) {
  const int none = 0;
  const fusion::ConsumerStoreArgs args(none, none, none, none, lane, none, none, none, none, none, source, none);
  return tree.template get_consumer_store_callbacks<true>(args);
}

inline constexpr auto kToNearest = cutlass::FloatRoundStyle::round_to_nearest;
template <template <class> class Step>
using Compute = fusion::Sm90Compute<Step, float, float, kToNearest>;

/// The least tree: sums are rounded as they are.
using NoTree = fusion::Sm90AccFetch;

/// acc * token_scale * channel_scale + bias, of which any may be absent.
template <class Element>
using LinearTree =
    fusion::Sm90EVT<Compute<cutlass::homogeneous_multiply_add>, fusion::Sm90EVT<TokenScale, fusion::Sm90AccFetch>,
                    ChannelVector<float>, ChannelVector<Element>>;

/// The named epilogues (machete/epilogue.h), whose steps may all be absent but for the last, which comes with the
/// rounding: activation(acc * token_scale * channel_scale + bias) + residual.
template <class Element>
using NamedTree = fusion::Sm90EVT<Compute<AddStep>, fusion::Sm90EVT<Compute<ActivationStep>, LinearTree<Element>>,
                                  fusion::Sm90SrcFetch<Element>>;

template <class Element>
typename NamedTree<Element>::Params params_of_named(const Store<Element>& store) {
  const Operands& o = store.operands;
  const auto* bias = static_cast<const Element*>(o.bias);
  return NamedTree<Element>::to_underlying_arguments(
      0,
      {{{{{}, {o.token_scale}}, {o.channel_scale, 1.f, store.factor}, {bias, 0.f}, {}}, {o.activation}},
       {},
       {o.residual != nullptr}},
      nullptr);
}

/// What a tree's drain (kernels/epilogue/staging.cuh) has code of its own for: parameters some of which the compiler
/// knows, so that no step is looked at for every fragment.
template <class Tree>
struct Known {
  /// Calls function(params, whether the code is to go straight). kTokenScales: whether tokens have scales, as they do
  /// with activations of 8 bits.
  template <bool kTokenScales, class Function>
  CUTLASS_DEVICE static void with(const typename Tree::Params& params, const Function& function) {
    function(params, std::true_type{});
  }
};
/// Of the named epilogues the common ones go straight. Others that are long go in a loop, and the rest in one that
/// looks at the steps there are: each takes its time to compile.
template <class Element>
struct Known<NamedTree<Element>> {
  using Params = typename NamedTree<Element>::Params;

  template <bool kTokenScales, class Function>
  CUTLASS_DEVICE static void with(const Params& params, const Function& function) {
    const Activation activation = params.op_0.op_1.kind;
    const bool residual = params.op_2.there;
    const auto know = [&](Activation known_activation, bool known_residual, auto straight) {
      Params known = params;
      known.op_0.op_1.kind = known_activation;
      known.op_2.there = known_residual;
      const float*& token_scales = known.op_0.op_0.op_0.op_1.values;
      if constexpr (!kTokenScales) {
        token_scales = nullptr;
      } else if (token_scales == nullptr) {
        __builtin_unreachable();
      }
      function(known, straight);
    };
    const bool token_scales = params.op_0.op_0.op_0.op_1.values != nullptr;
    constexpr std::true_type kStraight;
    constexpr std::false_type kInLoop;
    if (token_scales != kTokenScales || (residual && activation != Activation::kNone)) {
      return function(params, kInLoop);
    }
    // The common ones first: where their code lies counts, 0.3% of a large tile.
    const auto is = [&](Activation likely) { return __builtin_expect(activation == likely, 1) != 0; };
    if (is(Activation::kNone)) {
      return residual ? know(Activation::kNone, true, kStraight) : know(Activation::kNone, false, kStraight);
    }
    if (is(Activation::kSwiglu)) return know(Activation::kSwiglu, false, kStraight);
    if (is(Activation::kSilu)) return know(Activation::kSilu, false, kStraight);
    if (activation == Activation::kGelu) return know(Activation::kGelu, false, kInLoop);
    if (activation == Activation::kGeluTanh) return know(Activation::kGeluTanh, false, kInLoop);
    function(params, kInLoop);
  }
};

/// Whether a tree has Store::factor among its scales, which saves a multiplication of every sum. Others get sums that
/// are multiplied.
template <class Tree>
inline constexpr bool kHasFactor = false;
template <class Element>
inline constexpr bool kHasFactor<NamedTree<Element>> = true;

}  // namespace machete::epilogue
