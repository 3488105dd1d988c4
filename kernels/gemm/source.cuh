#pragma once

#include "kernels/epilogue/visitors.cuh"
#include "kernels/gemm/producer.cuh"
#include "kernels/kernel.h"

namespace machete::gemm {

template <class Tree>
inline constexpr bool kHasTree = !std::is_same_v<Tree, epilogue::NoTree>;

/// Whether the residual of a launch can come through the ring: TMA wants rows that begin on 16 bytes, and swiglu's are
/// half as many as the tile's.
inline bool is_source(const kernels::Launch& launch) {
  const epilogue::Operands& o = launch.epilogue;
  return o.residual != nullptr && o.ldc % 8 == 0 && o.activation != Activation::kSwiglu;
}

/// The residual of a tile, which comes through the ring of stages behind the tile's operands, so that it is there when
/// the sums are: boxes of 64 rows, [token][64 rows] each, swizzled, where activations would be.
template <class Config>
class Source {
 public:
  /// In the stage that comes next and those that follow it.
  __device__ Source(typename Config::SharedStorage& shared, Stage<Config::kStages> next, bool there)
      : shared_(shared), next_(next), there_(there) {
    if (!there_) return;
    for (int i = 0; i < Config::kSourceStages; ++i) {
      Barrier::wait(&shared_.full[next.index], next.phase);
      next.advance();
    }
  }

  __device__ bool there() const { return there_; }

  /// What a warpgroup's rows of an atom meet.
  __device__ const uint128_t* box(int atom, int warpgroup) const {
    constexpr int kBoxes = Config::kBoxes;
    const int index = atom * Config::kWarpgroups + warpgroup;
    int stage = next_.index + index / kBoxes;
    if (stage >= Config::kStages) stage -= Config::kStages;
    return reinterpret_cast<const uint128_t*>(shared_.activations) +
           (stage * kBoxes + index % kBoxes) * Config::kTileM * 8;
  }

  /// A warp has read it. Returns the stage behind it.
  __device__ Stage<Config::kStages> release(int thread) {
    for (int i = 0; i < Config::kSourceStages; ++i) {
      gemm::release(shared_, thread, next_.index);
      next_.advance();
    }
    return next_;
  }

 private:
  typename Config::SharedStorage& shared_;
  Stage<Config::kStages> next_;
  bool there_;
};

}  // namespace machete::gemm
