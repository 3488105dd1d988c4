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
          value[atom][half] = there ? static_cast<float>(params.values[channel]) : params.missing;
        }
      }
    }
    template <class Accumulator, int kSize>
    CUTLASS_DEVICE Fragment<Lane> visit(const cutlass::Array<Accumulator, kSize>&, int, int atom, int) const {
      Fragment<Lane> result;
      CUTLASS_PRAGMA_UNROLL
      for (int f = 0; f < Lane::kFragment; ++f) {
        result[f] = value[0][Lane::half(f)];
        CUTLASS_PRAGMA_UNROLL
        for (int a = 1; a < Lane::kAtoms; ++a) result[f] = a == atom ? value[a][Lane::half(f)] : result[f];
      }
      return result;
    }
  };

  template <bool kReferenceSource, class... Args>
  CUTLASS_DEVICE auto get_consumer_store_callbacks(const fusion::ConsumerStoreArgs<Args...>& args) {
    return Callbacks<cute::remove_cvref_t<decltype(args.epi_tile)>>(this->params, args.epi_tile);
  }
};

/// One number for each token: values[M]. kAhead: those of a step are fetched while the step before is computed, for
/// trees that leave registers for it.
template <bool kAhead>
struct TokenVector : Leaf<VectorParams<float>> {
  using Leaf<VectorParams<float>>::Leaf;

  template <class Lane>
  struct Callbacks : fusion::EmptyConsumerStoreCallbacks {
    using Tokens = cutlass::Array<float, Lane::kFragment / 2>;  // the token of a pair + 2 (octet)

    VectorParams<float> params;
    Lane lane;
    Tokens next;
    Tokens current;

    CUTLASS_DEVICE Callbacks(const VectorParams<float>& p, const Lane& l) : params(p), lane(l) {}

    CUTLASS_DEVICE void begin() {
      if (kAhead && params.values != nullptr) next = fetch(0);  // the same for all lanes, here and below
    }
    CUTLASS_DEVICE void begin_loop(int atom, int chunk) {
      if (!kAhead || params.values == nullptr) return;
      current = next;
      next = fetch(chunk + (atom + 1) / Lane::kAtoms);
    }
    template <class Accumulator, int kSize>
    CUTLASS_DEVICE Fragment<Lane> visit(const cutlass::Array<Accumulator, kSize>&, int, int, int chunk) const {
      Fragment<Lane> result;
      result.fill(params.missing);
      if (params.values == nullptr) return result;
      const Tokens tokens = kAhead ? current : fetch(chunk);
      CUTLASS_PRAGMA_UNROLL
      for (int f = 0; f < Lane::kFragment; ++f) result[f] = tokens[f / 4 * 2 + f % 2];
      return result;
    }

   private:
    CUTLASS_DEVICE Tokens fetch(int chunk) const {
      Tokens tokens;
      CUTLASS_PRAGMA_UNROLL
      for (int i = 0; i < static_cast<int>(Tokens::kElements); ++i) {
        const int token = lane.token_of(i / 2 * 4 + i % 2, chunk);
        tokens[i] = token < lane.m ? params.values[token] : 0.f;
      }
      return tokens;
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
    if (arguments.kind == Activation::kSwiglu) return of_pairs(x);
    Array result = x;
    activate(arguments.kind, result, static_cast<int>(Array::kElements));
    return result;
  }

  template <Activation kKind, class Array>
  CUTLASS_DEVICE static Array of_kind(const Array& x) {
    if constexpr (kKind == Activation::kNone) return x;
    if constexpr (kKind == Activation::kSwiglu) return of_pairs(x);
    return of_each<kKind>(x);
  }

 private:
  template <Activation kKind, class Array>
  CUTLASS_DEVICE static Array of_each(const Array& x) {
    Array result;
    CUTLASS_PRAGMA_UNROLL
    for (int f = 0; f < static_cast<int>(Array::kElements); ++f) result[f] = activate(kKind, x[f]);
    return result;
  }
  template <class Array>
  CUTLASS_DEVICE static Array of_pairs(const Array& x) {
    Array result;
    CUTLASS_PRAGMA_UNROLL
    for (int f = 0; f < static_cast<int>(Array::kElements); ++f) {
      result[f] = f / 2 % 2 == 0 ? silu(x[f]) * x[f + 2] : 0.f;
    }
    return result;
  }
};

/// The same of a kind that is known when compiled.
template <Activation kKind>
struct FixedActivation {
  template <class T>
  struct Step {
    template <class Array>
    CUTLASS_DEVICE Array operator()(const Array& x) const {
      return ActivationStep<T>::template of_kind<kKind>(x);
    }
  };
};

/// The callbacks of a tree for a lane's fragments. Visitors here have no use for the rest of what CUTLASS gives its
/// own.
template <class Tree, class Lane>
CUTLASS_DEVICE auto callbacks_of(Tree tree, const Lane& lane) {
  const int none = 0;
  int source = 0;
  const fusion::ConsumerStoreArgs args(none, none, none, none, lane, none, none, none, none, none, source, none);
  return tree.template get_consumer_store_callbacks<true>(args);
}

inline constexpr auto kToNearest = cutlass::FloatRoundStyle::round_to_nearest;
template <template <class> class Step>
using Compute = fusion::Sm90Compute<Step, float, float, kToNearest>;

/// No tree at all: sums are rounded as they are.
struct NoTree {
  struct Params {};
};

/// acc * token_scale * channel_scale + bias, of which any may be absent.
template <class Element, bool kAhead>
using LinearTree =
    fusion::Sm90EVT<Compute<cutlass::homogeneous_multiply_add>,
                    fusion::Sm90EVT<Compute<cutlass::multiplies>, fusion::Sm90AccFetch, TokenVector<kAhead>>,
                    ChannelVector<float>, ChannelVector<Element>>;

/// The named epilogues (machete/epilogue.h), whose steps may all be absent, but for the last:
/// activation(acc * token_scale * channel_scale + bias). The residual comes in the store, where a lane has neighbours
/// of a token, and can read as many at once.
template <class Element>
struct NamedTree {
  using Tree = fusion::Sm90EVT<Compute<ActivationStep>, LinearTree<Element, false>>;

  static typename Tree::Arguments arguments(const Operands& o) {
    const auto* bias = static_cast<const Element*>(o.bias);
    return {{{{}, {o.token_scale, 1.f}, {}}, {o.channel_scale, 1.f}, {bias, 0.f}, {}}, {o.activation}};
  }
};

/// What most linears have of it, an activation known when compiled and no residual: short enough to be there once for
/// each step of the drain, without a branch.
template <class Element, Activation kActivation_>
struct ShortTree {
  using Base = fusion::Sm90EVT<Compute<FixedActivation<kActivation_>::template Step>, LinearTree<Element, true>>;
  struct Tree : Base {
    using Base::Base;
    static constexpr Activation kActivation = kActivation_;
  };

  static bool serves(const Operands& o) { return o.activation == kActivation_ && o.residual == nullptr; }
  static typename Tree::Arguments arguments(const Operands& o) {
    const auto* bias = static_cast<const Element*>(o.bias);
    return {{{{}, {o.token_scale, 1.f}, {}}, {o.channel_scale, 1.f}, {bias, 0.f}, {}}, {}};
  }
};

template <class Tree, class = void>
inline constexpr bool kIsShort = false;
template <class Tree>
inline constexpr bool kIsShort<Tree, std::void_t<decltype(Tree::kActivation)>> = true;

}  // namespace machete::epilogue
