#pragma once

#include <cute/tensor.hpp>

#include "kernels/gemm/producer.cuh"

namespace machete::gemm {

/// A consumer warpgroup's main loop: unpack the weights of a tile (64 k) into one register fragment while wgmma works
/// on the other.
///
///   tile t:    wait for the stage | unpack into fragment t%2 | issue wgmma | wait for the wgmma of tile t-1, free its
///   stage
///
/// The tensor cores thus always have a tile in hand while the next one is unpacked, and the two warpgroups fill each
/// other's gaps.
template <class Config>
struct Consumer {
  using Element = typename Config::Element;
  using Converter = typename Config::Converter;
  using Mma = typename Config::Mma;

  typename Config::SharedStorage& shared;
  layout::Groups groups;
  int thread;  // among the consumers
  Stage<Config::kStages> stage;

  /// Adds W[tile] · A[tile]ᵀ over the stages of `range` to the accumulators.
  template <class Accumulators>
  __device__ void multiply(StageRange range, Accumulators& accumulators /* (MMA,MMA_N,MMA_M) */) {
    const Mma mma;
    auto slice = mma.get_slice(thread);
    Tensor sA = make_tensor(make_smem_ptr(shared.pipeline.activations),
                            typename Config::ActivationLayout{});  // (BLK_M,BLK_K,PIPE)
    Tensor tCrA = slice.make_fragment_B(slice.partition_B(sA));    // (MMA,MMA_M,MMA_K,PIPE)
    Tensor fragment0 = make_tensor<Element>(Shape<Shape<_2, _2, _2>, Int<Config::kAtoms>, Int<layout::kSteps>>{});
    Tensor fragment1 = make_fragment_like(fragment0);  // (MMA,MMA_N,k16 steps)

    layout::GroupCursor cursor(groups, range.begin * Config::kTiles);
    int first_group = 0;
    int pending = -1;  // the stage that the wgmma before the last one reads
    for (int block = range.begin; block < range.end; block += Config::kStagesPerStep) {
#pragma unroll
      for (int t = 0; t < Config::kTiles * Config::kStagesPerStep; ++t) {
        const int tile = t % Config::kTiles;
        if (tile == 0) {
          Barrier::wait(&shared.full[stage.index], stage.phase);
          first_group = cursor.group();
        }
        auto& fragment = t % 2 == 0 ? fragment0 : fragment1;
        if (groups.fine()) {
          unpack<true>(tile, cursor.group() - first_group, fragment);
        } else {
          unpack<false>(tile, cursor.group() - first_group, fragment);
        }
        cursor.advance();

        warpgroup_fence_operand(accumulators);
        warpgroup_fence_operand(fragment);
        warpgroup_arrive();
#pragma unroll
        for (int step = 0; step < layout::kSteps; ++step) {
          cute::gemm(mma, fragment(_, _, step), tCrA(_, _, tile * layout::kSteps + step, stage.index), accumulators);
        }
        warpgroup_commit_batch();
        warpgroup_wait<1>();
        warpgroup_fence_operand(t % 2 == 0 ? fragment1 : fragment0);
        if (tile == 0 && pending >= 0) release(pending);
        if (tile == Config::kTiles - 1) {
          pending = stage.index;
          stage.advance();
        }
      }
    }
    warpgroup_wait<0>();
    warpgroup_fence_operand(accumulators);
    if (pending >= 0) release(pending);
  }

 private:
  /// One tile of packed weights to operand registers, scaled: (q - 8) exactly, times the scale, rounded once.
  template <bool kFine, class Fragment>
  __device__ void unpack(int tile, int group, Fragment& fragment) {
    const int lane = thread % 32;
    Tensor words = recast<std::uint32_t>(fragment);  // (4,MMA_N,k16 steps)
#pragma unroll
    for (int atom = 0; atom < Config::kAtoms; ++atom) {
      const int strip = atom * Config::kConsumerWarps + thread / 32;
      const auto packed = *reinterpret_cast<const uint4*>(
          shared.pipeline.weights[stage.index] + (strip * Config::kTiles + tile) * layout::kTileBytes + lane * 16);
      const std::uint32_t word[4] = {packed.x, packed.y, packed.z, packed.w};
      // The scales of the lane's two rows are neighbours (layout::scale_layout).
      const auto* scales = reinterpret_cast<const std::uint32_t*>(shared.pipeline.scales[stage.index]) +
                           (strip * groups.per_stage + group) * (layout::kStripRows / 2) + lane / 4;
      std::uint32_t scale[2];
#pragma unroll
      for (int step = 0; step < layout::kSteps; ++step) {
        if (kFine || step == 0) {
          const int local = kFine ? step * groups.groups_per_tile / layout::kSteps : 0;
          const std::uint32_t pair = scales[local * (layout::kStripRows / 2)];
          scale[0] = __byte_perm(pair, pair, 0x1010);
          scale[1] = __byte_perm(pair, pair, 0x3232);
        }
        std::uint32_t a[4];
        Converter::decode(word[step], Element{}, a);
#pragma unroll
        for (int j = 0; j < 4; ++j) words(j, atom, step) = multiply_pair(a[j], scale[j % 2]);
      }
    }
  }

  __device__ static std::uint32_t multiply_pair(std::uint32_t a, std::uint32_t b) {
    std::uint32_t product;
    if constexpr (is_same_v<Element, cutlass::bfloat16_t>) {
      asm("mul.rn.bf16x2 %0, %1, %2;" : "=r"(product) : "r"(a), "r"(b));
    } else {
      asm("mul.rn.f16x2 %0, %1, %2;" : "=r"(product) : "r"(a), "r"(b));
    }
    return product;
  }

  __device__ void release(int index) {
    __syncwarp();
    if (thread % 32 == 0) Barrier::arrive(&shared.empty[index]);
  }
};

}  // namespace machete::gemm
