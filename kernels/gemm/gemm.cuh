#pragma once

/// The warp-specialised mixed-precision GEMM: one producer warp fills a ring of stages by TMA; two or three consumer
/// warpgroups unpack weights into registers and multiply them with wgmma (consumer.cuh); results leave through shared
/// memory (kernels/epilogue).
///
// clang-format off
///   W packed --TMA--> stage: [strip][tile][512 B] --LDS.128--> registers --unpack, scale--> operand A --+
///   A        --TMA--> stage: [64 k][BLK_M] swizzled ------------------------------------> operand B --+--wgmma--> accumulators
///   accumulators --(stream-K: + what others give)--> round --> staging [token][64 features] --> D
// clang-format on
///
/// One CTA an SM takes tile after tile, its producer running ahead while results leave. The warpgroups share stages but
/// not their course: one may be storing while another multiplies, up to a ring apart. Where whole tiles would
/// leave SMs idle, several CTAs share a tile's K (scheduler.h, exchange.cuh); sums are added in the order of k, so the
/// same launch gives the same bits every time.

#include <cutlass/arch/reg_reconfig.h>

#include <type_traits>

#include "kernels/afresh.h"
#include "kernels/epilogue/staging.cuh"
#include "kernels/epilogue/store.cuh"
#include "kernels/gemm/byte_consumer.cuh"
#include "kernels/gemm/config.h"
#include "kernels/gemm/consumer.cuh"
#include "kernels/gemm/exchange.cuh"
#include "kernels/gemm/producer.cuh"
#include "kernels/gemm/prologue.cuh"
#include "kernels/gemm/scheduler.h"
#include "kernels/gemm/source.cuh"
#include "kernels/timeline.h"

namespace machete::gemm {

/// The main loop by the width of activations.
template <class Config>
using ConsumerOf = std::conditional_t<Config::kBytes, ByteConsumer<Config>, Consumer<Config>>;

/// Tree: what happens to the sums, a tree of visitors or none (kernels/epilogue/visitors.cuh).
template <class Config, class Tree>
struct Params {
  TensorMaps maps;
  typename Tree::Params tree;
  epilogue::Store<typename Config::Element> store;
  Exchange<Config> exchange;
  Raster raster;
  Shares shares;
  layout::Groups groups;
  bool fractional_zero_points;
  bool fast_accumulation;
  bool source;   // the residual comes through the ring
  bool overlap;  // launched while the kernel ahead may still run
  kernels::Timeline timeline;
};

/// The producer warp: the operands of every tile of the walk.
template <class Config, class Tree>
__device__ void produce(const Params<Config, Tree>& params, typename Config::SharedStorage& shared) {
  Walk walk(params.shares, static_cast<int>(blockIdx.x));
  Producer<Config> producer(params.maps, shared, params.groups, params.raster.m_tiles == 1);
  producer.prefetch_maps();
  if (params.overlap) {
    if (!walk.done()) producer.prefetch(params.raster(walk.tile()), walk.begin(), walk.end());
    asm volatile("griddepcontrol.wait;" ::: "memory");  // what the kernel ahead writes is there
  }
  if (producer.elected()) params.timeline.mark(kernels::kDependencyMet);
  for (; !walk.done(); walk.advance()) {
    const WorkTile tile = params.raster(walk.tile());
    producer.load(tile, walk.begin(), walk.end());
    if (kHasTree<Tree> && params.source && walk.ends()) producer.load_source(tile);
  }
  if constexpr (Config::kFetchAhead) producer.finish();
}

/// Main loops, by groups: as large as a tile (64 k) or larger; smaller; of any size, with zero points that are no
/// integers.
enum MainLoops : std::uint8_t { kCoarse = 1, kFine = 2, kFractional = 4 };

/// A consumer warpgroup: multiply, share, store. Inline, since wgmma may not be in flight across a call. kLoops: what
/// it serves; that are several only where they end in one and the same drain.
template <int kLoops, class Config, class Tree>
__device__ __forceinline__ void consume(const Params<Config, Tree>& params, typename Config::SharedStorage& shared) {
  Walk walk(params.shares, static_cast<int>(blockIdx.x));
  const int thread = static_cast<int>(threadIdx.x);
  const int warpgroup = thread / 128;
  using Consumer = ConsumerOf<Config>;
  Consumer consumer{shared, params.groups, thread, {}, {}};
  if constexpr (Config::kBytes) consumer.fast = params.fast_accumulation;
  const bool fine = kLoops != kCoarse && (!(kLoops & kCoarse) || Consumer::fine(params.groups));
  const auto start = [&] { fine ? consumer.template start<true>() : consumer.template start<false>(); };
  start();
  auto accumulators = make_tensor<float>(partition_shape_C(
      typename Config::Mma{}, Shape<Int<Config::kTileN>, Int<Config::kTileM>>{}));  // (MMA,MMA_N,MMA_M)
  for (; !walk.done(); walk.advance()) {
    clear(accumulators);
    if (fine) {
      consumer.template multiply<true, kLoops == kFractional>(walk.begin(), walk.end(), accumulators);
    } else {
      consumer.template multiply<false, false>(walk.begin(), walk.end(), accumulators);
    }
    // Trees need the registers; who only rounds took 1-2% longer at 64 tokens so.
    const int own = kHasTree<Tree> ? kernels::afresh(thread) : thread;
    if (own == 0) params.timeline.mark(kernels::kMultiplied);
    if (!walk.ends()) {
      params.exchange.give(blockIdx.x, own / 32, own % 32, accumulators);
      continue;
    }
    params.exchange.take(walk.first_giver(), blockIdx.x, own / 32, own % 32, accumulators);
    const WorkTile tile = params.raster(walk.tile());
    const int lane = kHasTree<Tree> ? own % 128 : kernels::afresh(thread % 128);
    const epilogue::Staging<Config> staging{shared.staging[warpgroup], warpgroup, lane};
    Source<Config> source(shared, consumer.stage, kHasTree<Tree> && params.source);
    staging.template drain<Tree, true>(params.tree, accumulators, params.store, source, tile.n * Config::kTileN,
                                       tile.m * Config::kTileM);
    if (source.there()) consumer.stage = source.release(thread);
    if constexpr (kHasTree<Tree>) start();  // again: a tree leaves no registers for it
  }
  if ((kHasTree<Tree> ? kernels::afresh(thread) : thread) == 0) params.timeline.mark(kernels::kDone);
}

template <class Config, class Tree>
__global__ void __launch_bounds__(Config::kThreads, 1) gemm(const __grid_constant__ Params<Config, Tree> params) {
  extern __shared__ std::uint8_t raw[];
  auto& shared = *reinterpret_cast<typename Config::SharedStorage*>(raw);
  const int warp = begin<Config>(shared, params.overlap, params.timeline);

  if (warp >= Config::kConsumerWarps) {
    cutlass::arch::warpgroup_reg_dealloc<Config::kProducerRegisters>();
    if (warp == Config::kConsumerWarps) produce(params, shared);
  } else {
    cutlass::arch::warpgroup_reg_alloc<Config::kConsumerRegisters>();
    if constexpr (Config::Converter::kZeroPoints) {
      if (params.fractional_zero_points) return consume<kFractional>(params, shared);
    }
    if constexpr (Config::kOneDrain) {
      consume<kCoarse | kFine>(params, shared);
    } else if (ConsumerOf<Config>::fine(params.groups)) {
      consume<kFine>(params, shared);
    } else {
      consume<kCoarse>(params, shared);
    }
  }
}

}  // namespace machete::gemm
