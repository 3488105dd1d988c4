#pragma once

#include <cute/tensor.hpp>

#include "kernels/gemm/operand.cuh"
#include "kernels/gemm/producer.cuh"
#include "kernels/turns/config.h"

namespace machete::turns {

using namespace cute;  // NOLINT(google-build-using-namespace)
using gemm::Barrier;

/// A consumer warpgroup's main loop: codes meet the activations as they are; what the MMA sums over a turn, or over
/// each of its kParts parts where groups are smaller, is scaled and added in fp32. Parts go by two, each with sums of
/// its own, so that the tensor cores have one to go on with while the other is added and the next unpacked:
///
// clang-format off
///   MMA       | even ......... | odd ............................ |
///   the rest  |   unpack odd   |   add even, unpack the next even | add odd
// clang-format on
template <class Config, int kParts>
struct Consumer {
  using Mma = typename Config::Mma;
  static constexpr int kLoopParts = kParts < 2 ? 2 : kParts;

  /// A part: operand, scales, and the stage it came from.
  struct Fetched {
    gemm::Operand<Config, kParts> operand;
    gemm::RowScales<Config> scales;
    int stage;
  };

  typename Config::SharedStorage& shared;
  const layout::Groups& groups;
  int thread;  // among the consumers
  gemm::Stage<Config::kStages> stage;
  Fetched even;  // the next to be multiplied
  Fetched odd;

  /// Waits for the first part.
  __device__ void start() {
    Barrier::wait(&shared.full[stage.index], stage.phase);
    unpack(even, 0);
  }

  /// Adds W[tile] · A[tile]ᵀ over so many turns to the accumulators. Ends with the first part of the turn that follows
  /// fetched.
  template <class Accumulators>
  __device__ void multiply(int turns, Accumulators& accumulators /* (MMA,MMA_N,MMA_M) */) {
    auto slice = Mma{}.get_slice(thread);
    Tensor sA =
        make_tensor(make_smem_ptr(shared.activations), typename Config::ActivationLayout{});  // (BLK_M,BLK_K,PIPE)
    Tensor tCrA = slice.make_fragment_B(slice.partition_B(sA));                               // (MMA,MMA_M,MMA_K,PIPE)
    Tensor even_sums = make_fragment_like(accumulators);                                      // (MMA,MMA_N,MMA_M)
    Tensor odd_sums = make_fragment_like(accumulators);                                       // (MMA,MMA_N,MMA_M)

    int parts = turns * kParts;
    for (; parts > 1; parts -= kLoopParts) {
#pragma unroll
      for (int part = 0; part < kLoopParts; part += 2) {
        issue(even, part % kParts, tCrA, even_sums);
        fetch(odd, (part + 1) % kParts);
        issue(odd, (part + 1) % kParts, tCrA, odd_sums);
        finish<1>(even, part % kParts, even_sums);
        even.scales.add(even_sums, accumulators);
        fetch(even, (part + 2) % kParts);
        finish<0>(odd, (part + 1) % kParts, odd_sums);
        odd.scales.add(odd_sums, accumulators);
      }
    }
    if (parts == 0) return;
    issue(even, 0, tCrA, even_sums);
    finish<0>(even, 0, even_sums);
    even.scales.add(even_sums, accumulators);
    fetch(even, 0);
  }

 private:
  /// Part `part` of a turn, the first of which is in the next stage. Unpacked here, in the shadow of the MMA, not where
  /// it is used.
  __device__ __forceinline__ void fetch(Fetched& to, int part) {
    if (part == 0) {
      stage.advance();
      Barrier::wait(&shared.full[stage.index], stage.phase);
    }
    unpack(to, part);
    to.operand.fence();
  }
  __device__ __forceinline__ void unpack(Fetched& to, int part) {
    to.stage = stage.index;
    to.scales.load(shared, groups, thread, stage.index, part);
    to.operand.unpack(shared, thread, stage.index, part);
  }

  template <class Activations, class Sums>
  __device__ __forceinline__ static void issue(Fetched& from, int part, const Activations& tCrA, Sums& sums) {
    constexpr int kSteps = decltype(from.operand)::kSteps;
    // As the compiler sees that all lanes agree: addresses of activations then stay in uniform registers.
    const int place = __shfl_sync(~0u, from.stage, 0);
    Mma mma;
    warpgroup_fence_operand(sums);
    from.operand.fence();
    warpgroup_arrive();
#pragma unroll
    for (int k = 0; k < kSteps; ++k) {
      mma.accumulate_ = k == 0 ? GMMA::ScaleOut::Zero : GMMA::ScaleOut::One;
      cute::gemm(mma, from.operand.step(k), tCrA(_, _, part * kSteps + k, place), sums);
    }
    warpgroup_commit_batch();
  }

  /// Waits for the sums of a part, behind which kBehind parts are in the making.
  template <int kBehind, class Sums>
  __device__ __forceinline__ void finish(Fetched& of, int part, Sums& sums) {
    warpgroup_wait<kBehind>();
    warpgroup_fence_operand(sums);
    of.operand.fence();  // the MMA's until here
    if (part == kParts - 1) gemm::release(shared, thread, of.stage);
  }
};

}  // namespace machete::turns
