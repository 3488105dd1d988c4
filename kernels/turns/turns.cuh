#pragma once

/// Turns: up to 64 tokens by wgmma, added in the order of the batch family (order.h), which so gives the same bits: on
/// Hopper wgmma and mma.sync add alike, k16 by k16. For plans whose results may not depend on the number of tokens.
///
// clang-format off
///   the GEMM family's producer and stages --> Consumer, class by class: x scale, + --> sums of a class
///   sums of a class --> + those of its pair --> + the pairs before --(others' pairs, through the workspace)--> D
// clang-format on
///
/// The sums of the pairs before, needed a few times a tile, are parked in shared memory: beside two sets of the MMA's
/// (consumer.cuh) and those of a pair's two classes there are no registers for them, and none for more than 64 rows a
/// warpgroup. The two classes have sums of their own, so that nothing has to be moved between them.

#include <cutlass/arch/reg_reconfig.h>

#include "kernels/afresh.h"
#include "kernels/epilogue/staging.cuh"
#include "kernels/epilogue/store.cuh"
#include "kernels/gemm/exchange.cuh"
#include "kernels/gemm/producer.cuh"
#include "kernels/gemm/prologue.cuh"
#include "kernels/gemm/source.cuh"
#include "kernels/timeline.h"
#include "kernels/turns/config.h"
#include "kernels/turns/consumer.cuh"
#include "kernels/turns/order.h"
#include "kernels/turns/parked.cuh"

namespace machete::turns {

/// Tree: what happens to the sums, a tree of visitors or none (kernels/epilogue/visitors.cuh).
template <class Config, class Tree>
struct Params {
  gemm::TensorMaps maps;
  typename Tree::Params tree;
  epilogue::Store<typename Config::Element> store;
  gemm::Exchange<Config> exchange;
  layout::Groups groups;
  int tiles;
  int share;     // of a CTA, in pairs
  int turns;     // of K
  bool source;   // the residual comes through the ring
  bool overlap;  // launched while the kernel ahead may still run
  kernels::Timeline timeline;

  __device__ Walk walk() const { return {tiles, share, static_cast<int>(blockIdx.x)}; }
};

/// The producer warp: the operands of every class of the walk.
template <class Config, class Tree>
__device__ void produce(const Params<Config, Tree>& params, typename Config::SharedStorage& shared) {
  Walk walk = params.walk();
  gemm::Producer<Config> producer(params.maps, shared, params.groups, true);
  producer.prefetch_maps();
  if (params.overlap) {
    const Part part = walk.part();
    producer.template prefetch<kClasses>({part.tile, 0}, part.first * 2, params.turns);
    asm volatile("griddepcontrol.wait;" ::: "memory");  // what the kernel ahead writes is there
  }
  if (producer.elected()) params.timeline.mark(kernels::kDependencyMet);
  for (; !walk.done(); walk.advance()) {
    const Part part = walk.part();
    for (int i = part.first * 2; i < part.end * 2; ++i) {
      producer.template load<kClasses>({part.tile, 0}, i, params.turns);
    }
    if (gemm::kHasTree<Tree> && params.source && part.ends_tile()) producer.load_source({part.tile, 0});
  }
  producer.finish();
}

/// a += b
template <class Sums>
__device__ __forceinline__ void add(Sums& a, const Sums& b) {
#pragma unroll
  for (int i = 0; i < size(a); ++i) a(i) += b(i);
}

/// A consumer warpgroup: multiply, share, store. Inline, since wgmma may not be in flight across a call.
template <int kParts, class Config, class Tree>
__device__ __forceinline__ void consume(const Params<Config, Tree>& params, typename Config::SharedStorage& shared) {
  const int thread = static_cast<int>(threadIdx.x);
  const int warpgroup = thread / 128;
  Consumer<Config, kParts> consumer{shared, params.groups, thread, {}, {}};
  consumer.start();
  auto sums = make_tensor<float>(partition_shape_C(
      typename Config::Mma{}, Shape<Int<Config::kTileN>, Int<Config::kTileM>>{}));  // (MMA,MMA_N,MMA_M), of a class
  auto even = make_fragment_like(sums);                                             // of a pair's first class
  const Parked<Config> total{shared.total, thread};                                 // of the pairs before
  const int cta = static_cast<int>(blockIdx.x);
  const auto own = [thread] { return gemm::kHasTree<Tree> ? kernels::afresh(thread) : thread; };
  const auto multiply_class = [&](int index, auto& into) {
    clear(into);
    // The compiler is to know that all lanes take as many steps.
    consumer.multiply(__shfl_sync(~0u, turns_of_class(params.turns, index), 0), into);
  };
  for (Walk walk = params.walk(); !walk.done(); walk.advance()) {
    const Part part = walk.part();
    const bool takes = part.first > 0 && part.ends_tile();
    const auto take = [&] { params.exchange.take(walk.first_giver(part), cta, own() / 32, own() % 32, sums); };
    clear(sums);
    if (walk.given_early() && takes) take();
    total.put(sums);
#pragma unroll 1
    for (int pair = part.first; pair < part.end; ++pair) {
      multiply_class(2 * pair, even);
      multiply_class(2 * pair + 1, sums);
      add(sums, even);
      if (pair < part.end - 1) total.add(sums);
    }
    if (thread == 0) params.timeline.mark(kernels::kMultiplied);
    if (walk.given_early() || !takes) {
      total.add_to(sums);
    } else {
      copy(sums, even);
      clear(sums);
      total.add_to(sums);
      take();
      add(sums, even);
    }
    if (!part.ends_tile()) {
      params.exchange.give(cta, own() / 32, own() % 32, sums);
      continue;
    }
    const int tile = Walk::tile_of(kernels::afresh(walk.end()));
    const int lane = gemm::kHasTree<Tree> ? own() % 128 : kernels::afresh(thread % 128);
    const epilogue::Staging<Config> staging{shared.staging[warpgroup], warpgroup, lane};
    gemm::Source<Config> source(shared, consumer.stage, gemm::kHasTree<Tree> && params.source);
    constexpr bool kKnown = false;  // there is little to drain, and much to compile
    staging.template drain<Tree, kKnown>(params.tree, sums, params.store, source, tile * Config::kTileN, 0);
    if (source.there()) consumer.stage = source.release(thread);
    if constexpr (gemm::kHasTree<Tree>) consumer.start();  // again: a tree leaves no registers for it
  }
  if (thread == 0) params.timeline.mark(kernels::kDone);
}

template <class Config, class Tree>
__global__ void __launch_bounds__(Config::kThreads, 1) turns(const __grid_constant__ Params<Config, Tree> params) {
  extern __shared__ std::uint8_t raw[];
  auto& shared = *reinterpret_cast<typename Config::SharedStorage*>(raw);
  const int warp = gemm::begin<Config>(shared, params.overlap, params.timeline);

  if (warp >= Config::kConsumerWarps) {
    cutlass::arch::warpgroup_reg_dealloc<Config::kProducerRegisters>();
    if (warp == Config::kConsumerWarps) produce(params, shared);
  } else {
    cutlass::arch::warpgroup_reg_alloc<Config::kConsumerRegisters>();
    if (params.groups.fine()) {
      consume<4>(params, shared);
    } else if (params.groups.tiles_per_group == 1) {
      consume<2>(params, shared);
    } else {
      consume<1>(params, shared);
    }
  }
}

}  // namespace machete::turns
