#pragma once

#include <cutlass/bfloat16.h>
#include <cutlass/half.h>

#include <cute/arch/util.hpp>

#include "kernels/batch/config.h"
#include "kernels/layout/groups.h"
#include "kernels/stream/ring.cuh"

namespace machete::batch {

__device__ inline void mma(float (&d)[4], const std::uint32_t (&a)[4], std::uint32_t b0, std::uint32_t b1,
                           cutlass::bfloat16_t) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
__device__ inline void mma(float (&d)[4], const std::uint32_t (&a)[4], std::uint32_t b0, std::uint32_t b1,
                           cutlass::half_t) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/// [strip][octet of tokens][row, row + 8 | token, token + 1]
template <class Config>
struct Sums {
  float value[Config::kStrips][Config::kOctets][4];
};

/// Of a scale group, unscaled.
template <class Config>
struct Group {
  Sums<Config> sums;
  float total[Config::kOctets][4];  // of the activations themselves, in every row; fractional zero points only
};

/// Multiplies slots into the sums: code less zero point exactly in the MMA, the scale after it in fp32. What integers
/// leave of zero points (kFractional) multiplies the sum of the activations, which an operand of ones gives.
template <class Config, bool kFractional>
struct Multiplier {
  using Element = typename Config::Element;
  using Converter = typename Config::Converter;

  layout::Groups groups;
  int lane;
  std::uint32_t lane_address;  // of the lane's row in a tile of activations, as ldmatrix wants it

  __device__ explicit Multiplier(layout::Groups g) : groups(g), lane(static_cast<int>(threadIdx.x) % 32) {
    // Rows of 128 bytes, swizzled: 16-byte chunk c of token t lies at c ^ (t % 8).
    const int token = Config::kOctets == 1 ? lane % 8 : lane / 16 * 8 + lane % 8;
    const int chunk = Config::kOctets == 1 ? lane / 8 : lane / 8 % 2;
    lane_address = static_cast<std::uint32_t>(token * 128 + ((chunk ^ (lane % 8)) << 4));
  }

  /// The ring's slot in hand. `group` holds what a turn's earlier slot left of an unfinished group. Sums are scaled at
  /// the end of a group or turn.
  __device__ void operator()(const stream::Ring<Config>& ring, const stream::SlotCursor<Config>& cursor,
                             Sums<Config>& sums, Group<Config>& group) const {
    const Slot slot{ring.weights(), ring.scales(), ring.zero_points(), cute::cast_smem_ptr_to_uint(ring.activations())};
    if constexpr (Config::kTurnSlots == 1) group = {};
    // The usual group sizes without branches, so that loads run ahead.
    if (groups.tiles_per_group != 0 && groups.tiles_per_group % (Config::kTurnK / layout::kTileK) == 0) {
      multiply<Config::kTiles * layout::kSteps>(slot, cursor.last_of_turn(), sums, group);
    } else if (groups.tiles_per_group == 1) {
      multiply<layout::kSteps>(slot, true, sums, group);
    } else if (groups.groups_per_tile == 2) {
      multiply<layout::kSteps / 2>(slot, true, sums, group);
    } else {
      multiply_any(slot, cursor, sums, group);
    }
  }

 private:
  struct Slot {
    const std::uint8_t* weights;      // [strip][tile][kTileBytes]
    const std::uint8_t* scales;       // [strip][group][16]
    const std::uint8_t* zero_points;  // [strip][group][16]
    std::uint32_t activations;        // [tile][token][64], swizzled; address in shared memory
  };
  using Zeros = typename Converter::template Zeros<Element>[Config::kStrips];

  /// Every kGroupSteps k16 steps a group ends, but for the last one of the slot if that goes on in the next.
  template <int kGroupSteps>
  __device__ void multiply(const Slot& slot, bool ends, Sums<Config>& sums, Group<Config>& group) const {
    constexpr int kGroups = Config::kTiles * layout::kSteps / kGroupSteps;
    Zeros zeros;
#pragma unroll
    for (int tile = 0; tile < Config::kTiles; ++tile) {
      const auto before = [&](int step) {
        const int done = tile * layout::kSteps + step;
        if (done % kGroupSteps == 0) load_zeros(slot, done / kGroupSteps, kGroups, zeros);
      };
      multiply_tile(slot, tile, zeros, group, before, [&](int step) {
        const int done = tile * layout::kSteps + step + 1;
        if (done % kGroupSteps != 0 || (done / kGroupSteps == kGroups && !ends)) return;
        scale(slot, done / kGroupSteps - 1, kGroups, group, sums);
        group = {};
      });
    }
  }

  /// Groups of 16, and those of which a turn holds no whole number.
  __device__ void multiply_any(const Slot& slot, const stream::SlotCursor<Config>& cursor, Sums<Config>& sums,
                               Group<Config>& group) const {
    const int first_tile = cursor.slot * Config::kTiles;
    int tile_of_group = first_tile - groups.group_of(first_tile) * groups.tiles_per_group;
    int index = 0;
    Zeros zeros;
#pragma unroll 1
    for (int tile = 0; tile < Config::kTiles; ++tile) {
      const bool group_ends = ++tile_of_group == groups.tiles_per_group;
      const bool ends = groups.fine() || group_ends || (tile + 1 == Config::kTiles && cursor.last_of_turn());
      const auto before = [&](int step) {
        if (step == 0 || groups.fine()) load_zeros(slot, index, groups.per_stage, zeros);
      };
      multiply_tile(slot, tile, zeros, group, before, [&](int step) {
        if (step + 1 == layout::kSteps ? !ends : !groups.fine()) return;
        scale(slot, index, groups.per_stage, group, sums);
        group = {};
        if (groups.fine() || group_ends) ++index;
      });
      if (group_ends) tile_of_group = 0;
    }
  }

  template <class BeforeStep, class AfterStep>
  __device__ void multiply_tile(const Slot& slot, int tile, const Zeros& zeros, Group<Config>& group,
                                BeforeStep before_step, AfterStep after_step) const {
    convert::Words<Converter::kBits> packed[Config::kStrips];
#pragma unroll
    for (int s = 0; s < Config::kStrips; ++s) {
      packed[s] =
          convert::Words<Converter::kBits>::load(slot.weights + (s * Config::kTiles + tile) * Config::kTileBytes, lane);
    }
    const std::uint32_t tile_address = slot.activations + tile * Config::kTokens * 128 + lane_address;
    std::uint32_t b[4];
#pragma unroll
    for (int step = 0; step < layout::kSteps; ++step) {
      before_step(step);
      std::uint32_t fragment[Config::kOctets][2];
      if constexpr (Config::kOctets == 1) {
        if (step % 2 == 0) load_matrices(tile_address ^ (step << 5), b);
        fragment[0][0] = b[step % 2 * 2];
        fragment[0][1] = b[step % 2 * 2 + 1];
      } else {
#pragma unroll
        for (int o = 0; o < Config::kOctets; o += 2) {
          load_matrices((tile_address + o * 8 * 128) ^ (step << 5), b);
          fragment[o][0] = b[0];
          fragment[o][1] = b[1];
          fragment[o + 1][0] = b[2];
          fragment[o + 1][1] = b[3];
        }
      }
      if constexpr (kFractional) {
        constexpr std::uint32_t kOne = convert::kIsBf16<Element> ? 0x3F803F80u : 0x3C003C00u;
        const std::uint32_t ones[4] = {kOne, kOne, kOne, kOne};
#pragma unroll
        for (int o = 0; o < Config::kOctets; ++o) mma(group.total[o], ones, fragment[o][0], fragment[o][1], Element{});
      }
#pragma unroll
      for (int s = 0; s < Config::kStrips; ++s) {
        std::uint32_t a[4];
        Converter::template decode<Element>(packed[s], step, zeros[s], a);
#pragma unroll
        for (int o = 0; o < Config::kOctets; ++o) {
          mma(group.sums.value[s][o], a, fragment[o][0], fragment[o][1], Element{});
        }
      }
      after_step(step);
    }
  }

  // The scales of the lane's two rows are neighbours (layout::scale_layout); so are their zero points.
  __device__ std::uint32_t pair_of(const std::uint8_t* numbers, int strip, int index, int per_slot) const {
    return reinterpret_cast<const std::uint32_t*>(numbers)[(strip * per_slot + index) * 8 + lane / 4];
  }

  __device__ void load_zeros(const Slot& slot, int index, int per_slot, Zeros& zeros) const {
    if constexpr (Converter::kZeroPoints) {
#pragma unroll
      for (int s = 0; s < Config::kStrips; ++s) {
        zeros[s] = Converter::template zeros<Element, kFractional>(pair_of(slot.zero_points, s, index, per_slot));
      }
    }
  }

  __device__ void scale(const Slot& slot, int index, int per_slot, const Group<Config>& group,
                        Sums<Config>& sums) const {
#pragma unroll
    for (int s = 0; s < Config::kStrips; ++s) {
      const std::uint32_t pair = pair_of(slot.scales, s, index, per_slot);
      const float factor[2] = {convert::low_float<Element>(pair), convert::high_float<Element>(pair)};
      float fraction[2];
      if constexpr (kFractional) {
        const std::uint32_t fractions =
            Converter::template fractions<Element>(pair_of(slot.zero_points, s, index, per_slot));
        fraction[0] = convert::low_float<Element>(fractions);
        fraction[1] = convert::high_float<Element>(fractions);
      }
#pragma unroll
      for (int o = 0; o < Config::kOctets; ++o) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          float sum = group.sums.value[s][o][i];
          if constexpr (kFractional) {
            sum = fmaf(-fraction[i / 2], group.total[o][i], sum);
          }
          sums.value[s][o][i] = fmaf(sum, factor[i / 2], sums.value[s][o][i]);
        }
      }
    }
  }

  __device__ static void load_matrices(std::uint32_t address, std::uint32_t (&b)[4]) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(b[0]), "=r"(b[1]), "=r"(b[2]), "=r"(b[3])
                 : "r"(address));
  }
};

}  // namespace machete::batch
