#pragma once

#include <cutlass/bfloat16.h>
#include <cutlass/half.h>

#include <cute/arch/util.hpp>

#include "kernels/batch/config.h"
#include "kernels/layout/groups.h"

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

/// Multiplies one slot into the sums: q - 8 exactly in the MMA, the scale after it in fp32.
template <class Config>
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

  __device__ void operator()(const std::uint8_t* weights, const std::uint8_t* scales, const std::uint8_t* swizzled,
                             int slot_of_k, Sums<Config>& sums) const {
    const std::uint32_t activations = cute::cast_smem_ptr_to_uint(swizzled);
    Sums<Config> group = {};
    if (groups.tiles_per_group % Config::kTiles == 0 && groups.tiles_per_group != 0) {
#pragma unroll
      for (int tile = 0; tile < Config::kTiles; ++tile) {
        multiply_tile(
            weights, activations, tile, [&](int) {}, group);
      }
      flush(scales, 0, 1, group, sums);
    } else {
      int index = 0;
      const int first_tile = slot_of_k * Config::kTiles;
      int tile_of_group = first_tile - groups.group_of(first_tile) * groups.tiles_per_group;
      const int per_step = groups.fine() ? groups.groups_per_tile : 0;
#pragma unroll 1
      for (int tile = 0; tile < Config::kTiles; ++tile) {
        ++tile_of_group;
        const bool last = groups.fine() || tile_of_group == groups.tiles_per_group || tile + 1 == Config::kTiles;
        multiply_tile(
            weights, activations, tile,
            [&](int step) {
              if (step + 1 == layout::kSteps ? last : per_step * (step + 1) % layout::kSteps == 0 && per_step != 0) {
                flush(scales, index, groups.per_stage, group, sums);
                group = {};
                ++index;
              }
            },
            group);
        if (tile_of_group == groups.tiles_per_group) tile_of_group = 0;
      }
    }
  }

 private:
  template <class AfterStep>
  __device__ void multiply_tile(const std::uint8_t* weights, std::uint32_t activations, int tile, AfterStep after_step,
                                Sums<Config>& group) const {
    uint4 packed[Config::kStrips];
#pragma unroll
    for (int s = 0; s < Config::kStrips; ++s) {
      packed[s] =
          *reinterpret_cast<const uint4*>(weights + (s * Config::kTiles + tile) * layout::kTileBytes + lane * 16);
    }
    const std::uint32_t tile_address = activations + tile * Config::kTokens * 128 + lane_address;
    std::uint32_t b[4];
#pragma unroll
    for (int step = 0; step < layout::kSteps; ++step) {
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
#pragma unroll
      for (int s = 0; s < Config::kStrips; ++s) {
        const std::uint32_t word[4] = {packed[s].x, packed[s].y, packed[s].z, packed[s].w};
        std::uint32_t a[4];
        Converter::decode(word[step], Element{}, a);
#pragma unroll
        for (int o = 0; o < Config::kOctets; ++o) mma(group.value[s][o], a, fragment[o][0], fragment[o][1], Element{});
      }
      after_step(step);
    }
  }

  __device__ void flush(const std::uint8_t* scales, int index, int per_slot, const Sums<Config>& group,
                        Sums<Config>& sums) const {
#pragma unroll
    for (int s = 0; s < Config::kStrips; ++s) {
      // The scales of the lane's two rows are neighbours (layout::scale_layout).
      const auto pair = reinterpret_cast<const std::uint32_t*>(scales)[(s * per_slot + index) * 8 + lane / 4];
      const float scale[2] = {to_float(pair & 0xffffu), to_float(pair >> 16)};
#pragma unroll
      for (int o = 0; o < Config::kOctets; ++o) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          sums.value[s][o][i] = fmaf(group.value[s][o][i], scale[i / 2], sums.value[s][o][i]);
        }
      }
    }
  }

  __device__ static void load_matrices(std::uint32_t address, std::uint32_t (&b)[4]) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(b[0]), "=r"(b[1]), "=r"(b[2]), "=r"(b[3])
                 : "r"(address));
  }

  __device__ static float to_float(std::uint32_t bits) {
    return static_cast<float>(Element::bitcast(static_cast<std::uint16_t>(bits)));
  }
};

}  // namespace machete::batch
