#pragma once

#include <cute/tensor.hpp>

#include "kernels/gemm/config.h"
#include "kernels/gemm/operand.cuh"
#include "kernels/gemm/producer.cuh"

namespace machete::gemm {

/// A consumer warpgroup's main loop for 8-bit activations: codes meet the activations as they are, the wgmma's sums
/// (int32, exact, or fp32) are scaled once a group and added in fp32.
///
///   stage s (128 k):  issue wgmma | unpack the weights of stage s+1 | wait, free the stage | scale and add
///
/// What is left between two wgmma of a warpgroup, scaling above all, hides behind the other's.
///
/// Integers are added up over the whole group; floats of e4m3 over 128 k at most, since Hopper's tensor cores keep few
/// bits of such sums (docs/numerics.md), with fast accumulation over the group all the same.
template <class Config>
struct ByteConsumer {
  using Activation = typename Config::Activation;
  using Mma = typename Config::Mma;
  using Sum = typename Config::Sum;
  using Operand = gemm::Operand<Config>;

  static constexpr bool kExact = std::is_same_v<Sum, std::int32_t>;
  /// Tiles with room for one set of accumulators scale at the very end.
  static constexpr bool kOneGroup = Config::kAccumulators > 64;
  static constexpr float kCodeUnit = Config::Converter::template kCodeUnit<typename Config::Activation>;
  static constexpr bool kFastOnly = kOneGroup && !kExact;
  static_assert(Config::kBytes && Config::kTileK == 128 && Config::kStagesPerStep == 1);

  typename Config::SharedStorage& shared;
  const layout::Groups& groups;
  int thread;  // among the consumers
  Stage<Config::kStages> stage;

  Operand operands[2];          // of stages by turns; the first is unpacked
  RowScales<Config> scales[2];  // of their first groups
  bool fast = false;            // sums of e4m3 go on to the group's end

  static const char* refusal(const packing::Shape& shape) {
    if (kOneGroup && shape.packed_groups > 1) return "it has one set of accumulators, and so needs group_size=-1";
    if (shape.packed_group_size == 16) return "its MMA takes 32 k a step, of which each must lie in one group";
    const std::int64_t depth = shape.group_size > 0 && shape.group_size < shape.k ? shape.group_size : shape.k;
    if (kExact && depth >= 131072) return "its int32 sums hold less than 131072 k of a group";  // of 2^14 each
    return nullptr;
  }

  /// Whether groups may end within a stage.
  __device__ static bool fine(const layout::Groups& groups) {
    return !kOneGroup && (groups.fine() || groups.tiles_per_group % Config::kTiles != 0);
  }

  /// Waits for the first stage and unpacks it.
  template <bool kFine>
  __device__ void start() {
    Barrier::wait(&shared.full[stage.index], stage.phase);
    unpack(operands[0], scales[0]);
  }

  /// Adds W[tile] · A[tile]ᵀ over steps [begin, end) of K to the accumulators, which are zero. Ends with the stage that
  /// follows unpacked.
  template <bool kFine, bool kFractional, class Accumulators>
  __device__ void multiply(int begin, int end, Accumulators& accumulators /* (MMA,MMA_N,MMA_M) */) {
    Mma mma;
    auto slice = mma.get_slice(thread);
    Tensor sA =
        make_tensor(make_smem_ptr(shared.activations), typename Config::ActivationLayout{});  // (BLK_M,BLK_K,PIPE)
    Tensor tCrA = slice.make_fragment_B(slice.partition_B(sA));                               // (MMA,MMA_M,MMA_K,PIPE)
    auto sums = sums_beside(accumulators);                                                    // (MMA,MMA_N,MMA_M)

    layout::GroupCursor cursor(groups, begin * Config::kTiles);
    mma.accumulate_ = GMMA::ScaleOut::Zero;
    for (int step = begin; step < end; step += 2) {
      multiply_stage<kFine>(0, step + 1 == end, mma, tCrA, cursor, sums, accumulators);
      if (step + 1 < end) {
        multiply_stage<kFine>(1, step + 2 == end, mma, tCrA, cursor, sums, accumulators);
      } else {
        operands[0] = operands[1];
        scales[0] = scales[1];
      }
    }
  }

 private:
  /// Where the MMA adds up: in registers of its own, or, with one group, in those of the accumulators.
  template <class Accumulators>
  __device__ static auto sums_beside(Accumulators& accumulators) {
    if constexpr (kOneGroup) {
      return recast<Sum>(accumulators);
    } else {
      return make_tensor<Sum>(accumulators.layout());
    }
  }

  /// One stage, whose weights are unpacked; unpacks those of the next, of which there is one more after the last.
  /// kFine: groups may end within it, which is looked at after each step of the MMA.
  template <bool kFine, class Activations, class Sums, class Accumulators>
  __device__ __forceinline__ void multiply_stage(int at, bool last, Mma& mma, const Activations& tCrA,
                                                 layout::GroupCursor& cursor, Sums& sums, Accumulators& accumulators) {
    Operand& operand = operands[at];
    Operand& next = operands[1 - at];
    const int current = stage.index;
    const int group = cursor.group();
    const int group_steps = groups.fine() ? Operand::kTileSteps / groups.groups_per_tile : Operand::kTileSteps;
#pragma unroll
    for (int k = 0; k < Operand::kSteps; ++k) {
      if (k == 0 || kFine) {
        warpgroup_fence_operand(sums);
        operand.fence();
        warpgroup_arrive();
      }
      cute::gemm(mma, operand.step(k), tCrA(_, _, k, current), sums);
      mma.accumulate_ = GMMA::ScaleOut::One;
      if (kFine) {
        warpgroup_commit_batch();
        warpgroup_wait<0>();
        warpgroup_fence_operand(sums);
        if ((k + 1) % group_steps == 0) {
          const int tile_groups = k % Operand::kTileSteps * groups.groups_per_tile / Operand::kTileSteps;
          RowScales<Config> own;
          own.load(shared, groups, thread, current, cursor.group() - group + tile_groups);
          own.template add<kOneGroup>(sums, accumulators);
          mma.accumulate_ = GMMA::ScaleOut::Zero;
        }
      }
      if (k % Operand::kTileSteps == Operand::kTileSteps - 1) cursor.advance();
    }
    if (!kFine) warpgroup_commit_batch();
    stage.advance();
    Barrier::wait(&shared.full[stage.index], stage.phase);
    unpack(next, scales[1 - at]);
    next.fence();  // unpacked here, in the shadow of the MMA, not where it is used
    if (!kFine) {
      warpgroup_wait<0>();
      warpgroup_fence_operand(sums);
      operand.fence();  // the MMA's until here
    }
    release(shared, thread, current);
    const bool ends = last || (!kOneGroup && (cursor.group() != group || ends_each()));
    if (!kFine && ends) {
      scales[at].template add<kOneGroup>(sums, accumulators);
      mma.accumulate_ = GMMA::ScaleOut::Zero;
    }
  }

  /// Whether sums end with each stage. The compiler is not to know: promotions without a branch make ptxas serialise
  /// the MMAs around them.
  __device__ bool ends_each() const {
    if constexpr (kExact) return false;
    int ends = fast ? 0 : 1;
    asm volatile("" : "+r"(ends));
    return ends != 0;
  }

  __device__ void unpack(Operand& operand, RowScales<Config>& own) const {
    own.load(shared, groups, thread, stage.index, 0);
    operand.unpack(shared, thread, stage.index);
  }
};

}  // namespace machete::gemm
