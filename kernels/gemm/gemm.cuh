#pragma once

/// The warp-specialised mixed-precision GEMM: one producer warp fills a ring of stages by TMA; two consumer warpgroups
/// unpack weights into registers and multiply them with wgmma (consumer.cuh); results leave through shared memory
/// (kernels/epilogue).
///
// clang-format off
///   W packed --TMA--> stage: [strip][tile][512 B] --LDS.128--> registers --unpack, scale--> operand A --+
///   A        --TMA--> stage: [64 k][BLK_M] swizzled ------------------------------------> operand B --+--wgmma--> accumulators
///   accumulators --> staging [token][feature], fp32 --(split K: sum over the cluster)--> round --> D
// clang-format on
///
/// Where tiles alone would not fill the card, the CTAs of a cluster share one tile's K and add their partial tiles
/// through distributed shared memory, always in the order of their rank: no workspace, no counters, the same bits every
/// time.

#include <cutlass/arch/reg_reconfig.h>

#include <cute/arch/cluster_sm90.hpp>

#include "kernels/epilogue/staging.cuh"
#include "kernels/epilogue/store.cuh"
#include "kernels/gemm/config.h"
#include "kernels/gemm/consumer.cuh"
#include "kernels/gemm/producer.cuh"
#include "kernels/gemm/scheduler.h"
#include "kernels/timeline.h"

namespace machete::gemm {

template <class Config>
struct Params {
  TensorMaps maps;
  epilogue::Store<typename Config::Element> store;
  Raster raster;
  layout::Groups groups;
  int steps;     // of the main loop over all of K
  int splits;    // CTAs a cluster
  bool overlap;  // launched while the kernel ahead may still run
  kernels::Timeline timeline;
};

/// A whole tile through the small staging buffer, some tokens at a time.
template <class Config, class Accumulators>
__device__ void store_tile(const Accumulators& accumulators, const epilogue::Store<typename Config::Element>& store,
                           WorkTile tile, epilogue::Staging<Config> staging) {
  constexpr int kTokens = Config::kStagingTokens;
#pragma unroll
  for (int first = 0; first < Config::kTileM; first += kTokens) {
    if (tile.m * Config::kTileM + first >= store.m) break;
    epilogue::consumer_barrier<Config>();  // the buffer is free: the ring has been read, or the tokens before these
                                           // have left
    staging.template write<kTokens>(accumulators, first);
    epilogue::consumer_barrier<Config>();
    staging.template read<kTokens>(first, [&](int token, int feature, float4 v) {
      store(tile.m * Config::kTileM + token, tile.n * Config::kTileN + feature, v);
    });
  }
}

/// Sums the partial tiles of a cluster: each CTA a share of the tokens, over all ranks in order.
template <class Config>
__device__ void reduce_and_store(const epilogue::Store<typename Config::Element>& store, WorkTile tile, float* partial,
                                 int thread, int rank, int splits) {
  constexpr int kPerToken = Config::kTileN / 4;
  const int tokens = min(Config::kTileM, store.m - tile.m * Config::kTileM);
  for (int i = rank * Config::kConsumers + thread; i < tokens * kPerToken; i += splits * Config::kConsumers) {
    const int token = i / kPerToken;
    const int feature = i % kPerToken * 4;
    const std::uint32_t address = cute::cast_smem_ptr_to_uint(partial + token * Config::kStagingPitch + feature);
    float4 sum = {0, 0, 0, 0};
    for (int r = 0; r < splits; ++r) {
      const std::uint32_t remote = cute::set_block_rank(address, r);
      float4 v;
      asm volatile("ld.shared::cluster.v4.f32 {%0, %1, %2, %3}, [%4];"
                   : "=f"(v.x), "=f"(v.y), "=f"(v.z), "=f"(v.w)
                   : "r"(remote));
      sum = {sum.x + v.x, sum.y + v.y, sum.z + v.z, sum.w + v.w};
    }
    store(tile.m * Config::kTileM + token, tile.n * Config::kTileN + feature, sum);
  }
}

template <class Config>
__global__ void __launch_bounds__(Config::kThreads, Config::kCtasPerSm)
    gemm(const __grid_constant__ Params<Config> params) {
  extern __shared__ std::uint8_t raw[];
  auto& shared = *reinterpret_cast<typename Config::SharedStorage*>(raw);
  const int warp = cutlass::canonical_warp_idx_sync();

  if (params.overlap) asm volatile("griddepcontrol.launch_dependents;");
  if (threadIdx.x == 0) {
    params.timeline.mark(kernels::kStarted);
    for (int i = 0; i < Config::kStages; ++i) {
      Barrier::init(&shared.full[i], 1);
      Barrier::init(&shared.empty[i], Config::kConsumerWarps);
    }
    cutlass::arch::fence_barrier_init();
  }
  __syncthreads();

  const int splits = params.splits;
  const int rank = splits > 1 ? static_cast<int>(cute::block_rank_in_cluster()) : 0;
  const StageRange range = split_range(params.steps, Config::kStagesPerStep, rank, splits);
  const int stride = gridDim.x / splits;
  const int first = blockIdx.x / splits;

  if (warp >= Config::kConsumerWarps) {
    if constexpr (Config::kPersistent) cutlass::arch::warpgroup_reg_dealloc<Config::kProducerRegisters>();
    if (warp == Config::kConsumerWarps && cute::elect_one_sync()) {
      cute::prefetch_tma_descriptor(&params.maps.weights);
      cute::prefetch_tma_descriptor(&params.maps.activations);
      cute::prefetch_tma_descriptor(&params.maps.scales);
      Producer<Config> producer(params.maps, shared, params.groups, params.raster.m_tiles == 1);
      if (params.overlap) {
        if (first < params.raster.size()) producer.prefetch(params.raster(first), range);
        asm volatile("griddepcontrol.wait;" ::: "memory");  // what the kernel ahead writes is there
      }
      params.timeline.mark(kernels::kDependencyMet);
      for (int index = first; index < params.raster.size(); index += stride) producer.load(params.raster(index), range);
    }
    __syncwarp();
    if (splits > 1) {
      cluster_sync();
      cluster_sync();
    }
  } else {
    if constexpr (Config::kPersistent) cutlass::arch::warpgroup_reg_alloc<Config::kConsumerRegisters>();
    const int thread = static_cast<int>(threadIdx.x);
    Consumer<Config> consumer{shared, params.groups, thread, {}};
    typename Config::Mma mma;
    Tensor accumulators =
        partition_fragment_C(mma, Shape<Int<Config::kTileN>, Int<Config::kTileM>>{});  // (MMA,MMA_N,MMA_M)
    for (int index = first; index < params.raster.size(); index += stride) {
      const WorkTile tile = params.raster(index);
      clear(accumulators);
      consumer.multiply(range, accumulators);
      if (thread == 0) params.timeline.mark(kernels::kMultiplied);
      if (splits == 1) {
        float* buffer = Config::kPersistent ? shared.staging : shared.partial;
        store_tile<Config>(accumulators, params.store, tile, epilogue::Staging<Config>{buffer, thread});
      } else {                                 // one tile a cluster, so the loop ends here
        epilogue::consumer_barrier<Config>();  // everyone has read the ring, which the partial tile overwrites
        epilogue::Staging<Config>{shared.partial, thread}.template write<Config::kTileM>(accumulators, 0);
        cluster_sync();
        reduce_and_store<Config>(params.store, tile, shared.partial, thread, rank, splits);
        cluster_sync();  // nobody leaves while others read its shared memory
      }
    }
    if (thread == 0) params.timeline.mark(kernels::kDone);
  }
}

}  // namespace machete::gemm
