#pragma once

#include <cute/tensor.hpp>

#include "kernels/convert/scaled.h"
#include "kernels/gemm/producer.cuh"

namespace machete::gemm {

/// A consumer warpgroup's main loop: unpack the weights of a tile (64 k) into one register fragment while wgmma works
/// on the other.
///
///   tile t:  fetch the words of tile t+1 | unpack those of tile t into fragment t%2 | issue wgmma | wait for the wgmma
///            of tile t-1, free its stage
///
/// The tensor cores thus always have a tile in hand while the next one is unpacked, the way of words and scales from
/// shared memory hides behind the unpacking before, and the warpgroups fill each other's gaps.
template <class Config>
struct Consumer {
  using Element = typename Config::Element;
  using Converter = typename Config::Converter;
  using Mma = typename Config::Mma;

  typename Config::SharedStorage& shared;
  const layout::Groups& groups;
  int thread;  // among the consumers
  Stage<Config::kStages> stage;

  template <bool kFractional>
  using Scaled = convert::Scaled<Converter, Element, kFractional>;
  static constexpr float kCodeUnit = Scaled<false>::kUnit;  // of what is multiplied
  static constexpr bool kFastOnly = false;
  static constexpr bool kZeroPoints = Converter::kZeroPoints;
  // Two groups a tile are unpacked with half the scales of four; large tiles have no registers for both ways.
  static constexpr bool kPairs = Config::kFetchAhead;

  /// What a lane holds of a tile before it is unpacked.
  struct Words {
    convert::Words<Converter::kBits> packed[Config::kAtoms];
    // Of the lane's two rows, by k16 step; coarse groups have those of the first for all.
    std::uint32_t scales[Config::kAtoms][layout::kSteps];
    std::uint32_t zero_points[Config::kAtoms][layout::kSteps];  // of types that have them
  };
  Words words[2];  // of tiles by turns

  static const char* refusal(const packing::Shape&) { return nullptr; }

  /// Whether groups are smaller than a tile.
  __device__ static bool fine(const layout::Groups& groups) { return groups.fine(); }

  /// Waits for the first stage and fetches its first tile.
  template <bool kFine>
  __device__ void start() {
    if constexpr (Config::kFetchAhead) {
      Barrier::wait(&shared.full[stage.index], stage.phase);
      words[0] = fetch<kFine>(0, 0);
    }
  }

  /// Adds W[tile] · A[tile]ᵀ over steps [begin, end) of K to the accumulators. Ends with the first words of the stage
  /// that follows. kFine: groups smaller than a tile. kFractional: zero points that are no integers.
  template <bool kFine, bool kFractional, class Accumulators>
  __device__ void multiply(int begin, int end, Accumulators& accumulators /* (MMA,MMA_N,MMA_M) */) {
    const Mma mma;
    auto slice = mma.get_slice(thread);
    Tensor sA =
        make_tensor(make_smem_ptr(shared.activations), typename Config::ActivationLayout{});  // (BLK_M,BLK_K,PIPE)
    Tensor tCrA = slice.make_fragment_B(slice.partition_B(sA));                               // (MMA,MMA_M,MMA_K,PIPE)
    Tensor fragment0 = make_tensor<Element>(Shape<Shape<_2, _2, _2>, Int<Config::kAtoms>, Int<layout::kSteps>>{});
    Tensor fragment1 = make_fragment_like(fragment0);  // (MMA,MMA_N,k16 steps)

    layout::GroupCursor cursor(groups, begin * Config::kTilesPerStep);
    int first_group = cursor.group();  // of the stage
    for (int step = begin; step < end; ++step) {
#pragma unroll
      for (int t = 0; t < Config::kTilesPerStep; ++t) {
        const int tile = t % Config::kTiles;
        const int current = stage.index;
        if (!Config::kFetchAhead && tile == 0) {
          Barrier::wait(&shared.full[stage.index], stage.phase);
          first_group = cursor.group();
        }
        if (!Config::kFetchAhead) words[t] = fetch<kFine>(tile, cursor.group() - first_group);
        cursor.advance();
        if (tile == Config::kTiles - 1) {
          stage.advance();
          if (Config::kFetchAhead) {
            Barrier::wait(&shared.full[stage.index], stage.phase);  // one more comes after the last
            first_group = cursor.group();
          }
        }
        if (Config::kFetchAhead) words[1 - t] = fetch<kFine>((tile + 1) % Config::kTiles, cursor.group() - first_group);

        auto& fragment = t == 0 ? fragment0 : fragment1;
        if constexpr (!kFine) {
          unpack<1, kFractional>(words[t], fragment);
        } else if (kPairs && !kFractional && groups.groups_per_tile == 2) {
          unpack<2, kFractional>(words[t], fragment);
        } else {
          unpack<layout::kSteps, kFractional>(words[t], fragment);
        }
        warpgroup_fence_operand(accumulators);
        warpgroup_fence_operand(fragment);
        warpgroup_arrive();
#pragma unroll
        for (int k = 0; k < layout::kSteps; ++k) {
          cute::gemm(mma, fragment(_, _, k), tCrA(_, _, tile * layout::kSteps + k, current), accumulators);
        }
        warpgroup_commit_batch();
        warpgroup_wait<1>();
        warpgroup_fence_operand(t == 0 ? fragment1 : fragment0);
        if (tile == 0 && (t > 0 || step > begin)) release_before(current);
      }
    }
    warpgroup_wait<0>();
    warpgroup_fence_operand(accumulators);
    release_before(stage.index);
  }

 private:
  // The scales of the lane's two rows are neighbours (layout::scale_layout); so are their zero points.
  __device__ std::uint32_t scales_of(int stage, int atom, int group) const {
    return pair_of(shared.scales[stage], atom, group);
  }
  __device__ std::uint32_t zero_points_of(int stage, int atom, int group) const {
    return pair_of(shared.scales[stage] + Config::kScaleBytes, atom, group);
  }
  __device__ std::uint32_t pair_of(const std::uint8_t* numbers, int atom, int group) const {
    return reinterpret_cast<const std::uint32_t*>(
        numbers)[((atom * Config::kConsumerWarps + thread / 32) * groups.per_stage + group) * (layout::kStripRows / 2) +
                 thread % 32 / 4];
  }

  /// A tile of the stage; `group`, its first, counts within the stage.
  template <bool kFine>
  __device__ Words fetch(int tile, int group) const {
    Words words;
#pragma unroll
    for (int atom = 0; atom < Config::kAtoms; ++atom) {
      const int strip = atom * Config::kConsumerWarps + thread / 32;
      words.packed[atom] = convert::Words<Converter::kBits>::load(
          shared.weights[stage.index] + (strip * Config::kTiles + tile) * Config::kTileBytes, thread % 32);
#pragma unroll
      for (int step = 0; step < (kFine ? layout::kSteps : 1); ++step) {
        const int at = group + step * groups.groups_per_tile / layout::kSteps;
        words.scales[atom][step] = scales_of(stage.index, atom, at);
        if constexpr (kZeroPoints) words.zero_points[atom][step] = zero_points_of(stage.index, atom, at);
      }
    }
    return words;
  }

  /// One tile of packed weights to operand registers, scaled. kGroups: that the tile has.
  template <int kGroups, bool kFractional, class Fragment>
  __device__ void unpack(const Words& words, Fragment& fragment) const {
    Tensor operand = recast<std::uint32_t>(fragment);  // (4,MMA_N,k16 steps)
#pragma unroll
    for (int atom = 0; atom < Config::kAtoms; ++atom) {
      Scaled<kFractional> scaled;
#pragma unroll
      for (int step = 0; step < layout::kSteps; ++step) {
        if (step % (layout::kSteps / kGroups) == 0) {
          scaled = {words.scales[atom][step], words.zero_points[atom][step]};
        }
        std::uint32_t a[4];
        scaled.decode(words.packed[atom], step, a);
#pragma unroll
        for (int j = 0; j < 4; ++j) operand(j, atom, step) = a[j];
      }
    }
  }

  /// The stage ahead of this one may be filled again.
  __device__ void release_before(int index) { release(shared, thread, (index == 0 ? Config::kStages : index) - 1); }
};

}  // namespace machete::gemm
