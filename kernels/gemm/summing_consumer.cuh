#pragma once

#include <cute/tensor.hpp>

#include "kernels/gemm/config.h"
#include "kernels/gemm/producer.cuh"

namespace machete::gemm {

/// Where the MMA's sums end, to be scaled: with a stage, with each tile of it (64 k), or where groups end within a
/// tile, which is looked at after each of its steps.
enum class Ends { kStage, kTile, kStep };

/// A consumer warpgroup's main loop where sums are scaled, not weights: codes meet the activations as they are, the
/// wgmma's sums (int32, exact, or fp32) are scaled once a group and added in fp32. So it is with 8-bit activations, and
/// with 16-bit ones in kernels/turns.
///
///   stage s (128 k):  issue wgmma | unpack the weights of stage s+1 | wait, free the stage | scale and add
///
/// What is left between two wgmma of a warpgroup, scaling above all, hides behind the other's.
///
/// Integers are added up over the whole group; floats over 128 k at most: of e4m3 since Hopper's tensor cores keep few
/// bits of such sums (docs/numerics.md), of 16 bits since the batch family does.
template <class Config>
struct SummingConsumer {
  using Activation = typename Config::Activation;
  using Element = typename Config::Element;
  using Converter = typename Config::Converter;
  using Mma = typename Config::Mma;
  using Sum = typename Config::Sum;

  static constexpr int kStepK = layout::step_k(8 * sizeof(Activation));
  static constexpr int kSteps = Config::kTileK / kStepK;  // of the MMA, in a stage
  static constexpr int kTileSteps = layout::kTileK / kStepK;
  static constexpr bool kExact = std::is_same_v<Sum, std::int32_t>;
  /// Tiles with room for one set of accumulators scale at the very end.
  static constexpr bool kOneGroup = Config::kAccumulators > 64;
  static_assert(Config::kTileK == 128 && Config::kStagesPerStep == 1 && (kExact || !kOneGroup));
  static_assert(Config::kBytes || !Converter::kZeroPoints);

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
    if (Config::kBytes && shape.packed_group_size == 16) {
      return "its MMA takes 32 k a step, of which each must lie in one group";
    }
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
    multiply<kFine ? Ends::kStep : Ends::kStage>(begin, end, accumulators, [] {});
  }

  /// beside(): what is to be done with the accumulators ahead of each step's sums, while they are in the making.
  template <Ends kEnds, class Accumulators, class Beside>
  __device__ void multiply(int begin, int end, Accumulators& accumulators /* (MMA,MMA_N,MMA_M) */, Beside beside) {
    Mma mma;
    auto slice = mma.get_slice(thread);
    Tensor sA =
        make_tensor(make_smem_ptr(shared.activations), typename Config::ActivationLayout{});  // (BLK_M,BLK_K,PIPE)
    Tensor tCrA = slice.make_fragment_B(slice.partition_B(sA));                               // (MMA,MMA_M,MMA_K,PIPE)
    auto sums = sums_beside(accumulators);                                                    // (MMA,MMA_N,MMA_M)

    layout::GroupCursor cursor(groups, begin * Config::kTiles);
    mma.accumulate_ = GMMA::ScaleOut::Zero;
    for (int step = begin; step < end; step += 2) {
      multiply_stage<kEnds>(operands[0], operands[1], step + 1 == end, mma, tCrA, cursor, sums, accumulators, beside);
      if (step + 1 < end) {
        multiply_stage<kEnds>(operands[1], operands[0], step + 2 == end, mma, tCrA, cursor, sums, accumulators, beside);
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
  template <Ends kEnds, class Activations, class Sums, class Accumulators, class Beside>
  __device__ __forceinline__ void multiply_stage(Operand& operand, Operand& next, bool last, Mma& mma,
                                                 const Activations& tCrA, layout::GroupCursor& cursor, Sums& sums,
                                                 Accumulators& accumulators, Beside& beside) {
    // Behind what is done beside, the compiler does not see that all lanes agree, and takes stages' addresses out of
    // uniform registers.
    const int current = Config::kBytes ? stage.index : __shfl_sync(~0u, stage.index, 0);
    const int group = cursor.group();
    const int group_steps = groups.fine() ? kTileSteps / groups.groups_per_tile : kTileSteps;  // kStep
    if (kEnds != Ends::kStage) beside();
#pragma unroll
    for (int k = 0; k < kSteps; ++k) {
      const bool starts_tile = k % kTileSteps == 0;
      const bool ends_tile = k % kTileSteps == kTileSteps - 1;
      if (k == 0 || kEnds == Ends::kStep || (kEnds == Ends::kTile && starts_tile)) {
        warpgroup_fence_operand(sums);
        fence(operand);
        warpgroup_arrive();
      }
      Tensor codes = make_tensor(recast_ptr<Activation>(&operand.codes[k][0][0]),
                                 Layout<Shape<Shape<Int<4 / sizeof(Activation)>, _2, _2>, Int<Config::kAtoms>>>{});
      cute::gemm(mma, codes /* (MMA,MMA_N) */, tCrA(_, _, k, current), sums);
      mma.accumulate_ = GMMA::ScaleOut::One;
      if (kEnds == Ends::kStep || (kEnds == Ends::kTile && ends_tile && k + 1 < kSteps)) {
        warpgroup_commit_batch();
        warpgroup_wait<0>();
        warpgroup_fence_operand(sums);
        if (kEnds == Ends::kTile ? ends_each() : (k + 1) % group_steps == 0) {
          const int at = cursor.group() - group + k % kTileSteps * groups.groups_per_tile / kTileSteps;
          std::uint32_t scales[Config::kAtoms];
          fetch_scales(current, at, scales);
          add_scaled(sums, scales, accumulators);
          mma.accumulate_ = GMMA::ScaleOut::Zero;
        }
      }
      if (ends_tile) cursor.advance();
    }
    if (kEnds != Ends::kStep) warpgroup_commit_batch();
    if (kEnds == Ends::kStage) beside();
    stage.advance();
    Barrier::wait(&shared.full[stage.index], stage.phase);
    unpack(next);
    fence(next);  // unpacked here, in the shadow of the MMA, not where it is used
    if (kEnds != Ends::kStep) {
      warpgroup_wait<0>();
      warpgroup_fence_operand(sums);
      fence(operand);  // the MMA's until here
    }
    if (kEnds == Ends::kTile) fetch_scales(current, Config::kTiles - 1, operand.scales);
    release(current);
    const bool ends = last || (!kOneGroup && (cursor.group() != group || ends_each()));
    if (kEnds != Ends::kStep && ends) {
      add_scaled(sums, operand.scales, accumulators);
      mma.accumulate_ = GMMA::ScaleOut::Zero;
    }
  }

  /// Whether sums end with each stage, in kTile with each tile. The compiler is not to know: promotions without a
  /// branch make ptxas serialise the MMAs around them.
  __device__ static bool ends_each() {
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
    fetch_scales(stage.index, 0, operand.scales);
#pragma unroll
    for (int atom = 0; atom < Config::kAtoms; ++atom) {
      const int strip = atom * Config::kConsumerWarps + thread / 32;
#pragma unroll
      for (int tile = 0; tile < Config::kTiles; ++tile) {
        const auto words = convert::Words<Converter::kBits>::load(
            shared.weights[stage.index] + (strip * Config::kTiles + tile) * Config::kTileBytes, thread % 32);
#pragma unroll
        for (int k = 0; k < kTileSteps; ++k) {
          std::uint32_t(&codes)[4] = operand.codes[tile * kTileSteps + k][atom];
          if constexpr (Config::kBytes) {
            Converter::template decode_bytes<Activation>(words, k, codes);
          } else {
            Converter::template decode<Element>(words, k, {}, codes);
          }
        }
      }
    }
  }

  /// Of a group of the stage, the lane's two rows of each atom, which are neighbours (layout::scale_layout).
  __device__ void fetch_scales(int index, int group, std::uint32_t (&scales)[Config::kAtoms]) const {
    const auto* pairs = reinterpret_cast<const std::uint32_t*>(shared.scales[index]);  // [strip][group][8]
#pragma unroll
    for (int atom = 0; atom < Config::kAtoms; ++atom) {
      const int strip = atom * Config::kConsumerWarps + thread / 32;
      scales[atom] = pairs[(strip * groups.per_stage + group) * (layout::kStripRows / 2) + thread % 32 / 4];
    }
  }

  template <class Sums, class Accumulators>
  __device__ static void add_scaled(const Sums& sums, const std::uint32_t (&scales)[Config::kAtoms],
                                    Accumulators& accumulators /* ((2,2,BLK_M/8),MMA_N,1) */) {
#pragma unroll
    for (int atom = 0; atom < Config::kAtoms; ++atom) {
      const float scale[2] = {convert::low_float<Element>(scales[atom]), convert::high_float<Element>(scales[atom])};
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
