#pragma once

#include <cute/tensor.hpp>

#include "kernels/gemm/config.h"
#include "kernels/gemm/producer.cuh"

namespace machete::gemm {

/// A consumer warpgroup's main loop for 8-bit activations: codes meet them as they are, the wgmma's sums (int32, exact;
/// or fp32 with e4m3) are scaled once a group and added in fp32.
///
///   stage s (128 k):  issue wgmma | unpack the weights of stage s+1 | wait, free the stage | scale and add
///
/// What is left between two wgmma of a warpgroup, scaling above all, hides behind the other's.
///
/// Integers are added up over the whole group; e4m3 over 128 k at most, since Hopper's tensor cores keep few bits of
/// such sums (docs/numerics.md). Groups that do not end with a stage are scaled after every k32 step.
template <class Config>
struct ByteConsumer {
  using Activation = typename Config::Activation;
  using Converter = typename Config::Converter;
  using Mma = typename Config::Mma;
  using Sum = typename Config::Sum;

  static constexpr int kSteps = Config::kTileK / layout::step_k(8);  // of the MMA, in a stage
  static constexpr int kTileSteps = layout::kTileK / layout::step_k(8);
  static constexpr bool kExact = std::is_same_v<Sum, std::int32_t>;
  /// Tiles with room for one set of accumulators scale at the very end.
  static constexpr bool kOneGroup = Config::kAccumulators > 64;
  static_assert(Config::kTileK == 128 && Config::kStagesPerStep == 1 && (kExact || !kOneGroup));

  typename Config::SharedStorage& shared;
  const layout::Groups& groups;
  int thread;  // among the consumers
  Stage<Config::kStages> stage;

  /// A stage's weights as operand registers, and the scales of its first group.
  struct Operand {
    std::uint32_t codes[kSteps][Config::kAtoms][4];
    std::uint32_t scales[Config::kAtoms];  // of the lane's two rows
  };
  Operand operands[2];  // of stages by turns; the first is unpacked

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
    unpack(operands[0]);
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
      multiply_stage<kFine>(operands[0], operands[1], step + 1 == end, mma, tCrA, cursor, sums, accumulators);
      if (step + 1 < end) {
        multiply_stage<kFine>(operands[1], operands[0], step + 2 == end, mma, tCrA, cursor, sums, accumulators);
      } else {
        operands[0] = operands[1];
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
  template <bool kFine, class Activations, class Sums, class Accumulators>
  __device__ __forceinline__ void multiply_stage(Operand& operand, Operand& next, bool last, Mma& mma,
                                                 const Activations& tCrA, layout::GroupCursor& cursor, Sums& sums,
                                                 Accumulators& accumulators) {
    const int current = stage.index;
    const int group = cursor.group();
#pragma unroll
    for (int k = 0; k < kSteps; ++k) {
      if (k == 0 || kFine) {
        warpgroup_fence_operand(sums);
        fence(operand);
        warpgroup_arrive();
      }
      Tensor codes = make_tensor(recast_ptr<Activation>(&operand.codes[k][0][0]),
                                 Layout<Shape<Shape<_4, _2, _2>, Int<Config::kAtoms>>>{});  // (MMA,MMA_N)
      cute::gemm(mma, codes, tCrA(_, _, k, current), sums);
      mma.accumulate_ = GMMA::ScaleOut::One;
      if (kFine) {
        warpgroup_commit_batch();
        warpgroup_wait<0>();
        warpgroup_fence_operand(sums);
        const int at = cursor.group() - group + k % kTileSteps * groups.groups_per_tile / kTileSteps;
        std::uint32_t scales[Config::kAtoms];
#pragma unroll
        for (int atom = 0; atom < Config::kAtoms; ++atom) scales[atom] = scales_of(current, atom, at);
        add_scaled(sums, scales, accumulators);
        mma.accumulate_ = GMMA::ScaleOut::Zero;
      }
      if (k % kTileSteps == kTileSteps - 1) cursor.advance();
    }
    if (!kFine) warpgroup_commit_batch();

    stage.advance();
    Barrier::wait(&shared.full[stage.index], stage.phase);
    unpack(next);
    fence(next);  // unpacked here, in the shadow of the MMA, not where it is used
    if (!kFine) {
      warpgroup_wait<0>();
      warpgroup_fence_operand(sums);
      fence(operand);  // the MMA's until here
    }
    release(current);
    if (!kFine && (last || (!kOneGroup && (cursor.group() != group || ends_each_stage())))) {
      add_scaled(sums, operand.scales, accumulators);
      mma.accumulate_ = GMMA::ScaleOut::Zero;
    }
  }

  /// Whether sums end with each stage. The compiler is not to know: promotions without a branch make ptxas serialise
  /// the MMAs around them.
  __device__ static bool ends_each_stage() {
    if constexpr (kExact) return false;
    int ends = 1;
    asm volatile("" : "+r"(ends));
    return ends != 0;
  }

  /// Keeps the compiler from touching what wgmma reads.
  __device__ static void fence(Operand& operand) {
#pragma unroll
    for (auto& step : operand.codes) {
#pragma unroll
      for (auto& atom : step) {
#pragma unroll
        for (std::uint32_t& code : atom) warpgroup_fence_operand(code);
      }
    }
  }

  __device__ void unpack(Operand& operand) const {
#pragma unroll
    for (int atom = 0; atom < Config::kAtoms; ++atom) {
      const int strip = atom * Config::kConsumerWarps + thread / 32;
      operand.scales[atom] = scales_of(stage.index, atom, 0);
#pragma unroll
      for (int tile = 0; tile < Config::kTiles; ++tile) {
        const auto words = convert::Words<Converter::kBits>::load(
            shared.weights[stage.index] + (strip * Config::kTiles + tile) * Config::kTileBytes, thread % 32);
#pragma unroll
        for (int k = 0; k < kTileSteps; ++k) {
          Converter::template decode_bytes<Activation>(words, k, operand.codes[tile * kTileSteps + k][atom]);
        }
      }
    }
  }

  __device__ std::uint32_t scales_of(int index, int atom, int group) const {
    return reinterpret_cast<const std::uint32_t*>(
        shared.scales[index])[((atom * Config::kConsumerWarps + thread / 32) * groups.per_stage + group) *
                                  (layout::kStripRows / 2) +
                              thread % 32 / 4];
  }

  template <class Sums, class Accumulators>
  __device__ static void add_scaled(const Sums& sums, const std::uint32_t (&scales)[Config::kAtoms],
                                    Accumulators& accumulators /* ((2,2,BLK_M/8),MMA_N,1) */) {
#pragma unroll
    for (int atom = 0; atom < Config::kAtoms; ++atom) {
      const float scale[2] = {convert::low_float<typename Config::Element>(scales[atom]),
                              convert::high_float<typename Config::Element>(scales[atom])};
#pragma unroll
      for (int i = 0; i < Config::kTileM / 2; ++i) {
        float& sum = accumulators(i, atom, 0);
        const auto found = static_cast<float>(sums(i, atom, 0));
        sum = kOneGroup ? found * scale[i / 2 % 2] : fmaf(found, scale[i / 2 % 2], sum);
      }
    }
  }

  /// The stage may be filled again.
  __device__ void release(int index) {
    __syncwarp();
    if (thread % 32 == 0) Barrier::arrive(&shared.empty[index]);
  }
};

}  // namespace machete::gemm
