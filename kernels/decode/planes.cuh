#pragma once

#include <cute/arch/util.hpp>

#include "kernels/decode/config.h"

namespace machete::decode {

/// Activations as integers. The 256 values of a slot (one token) become x = 2^(e-21) (65536 d0 + 256 d1 + d2) with
/// signed 8-bit digits, to within 2^-22 of the slot's largest: far below what rounding the output to 8 or 11 bits
/// costs. A digit is a column of an int8 MMA, which is exact; its weight, 2^(e-21) 256^(2-digit), is a factor of the
/// column.
///
/// The MMA wants k's in the order that a weight's nibbles have them under one mask (kernels/layout): the word of lane
/// column c in a k16 step holds k = 2c, 2c+8, 2c+1, 2c+9.
template <class Config>
struct Planes {
  using Element = typename Config::Element;
  static constexpr int kMantissa = 8 * Config::kDigits - 3;
  static constexpr float kRound = 12582912.f;  // 1.5 * 2^23: adding it leaves an integer in the low bits
  static constexpr std::uint32_t kBias = 0x808080u;

  std::uint32_t* words;  // [slots of K][kTiles][column][4][4]
  float* factors;        // [slots of K][kBlocks * 8]
  int* special;          // [kTokens]

  /// Starts bringing a slot of a token, eight activations a lane, to where its digits will be. `row` is the token's
  /// activations, of which k exist; rows start on 16 bytes if aligned. The kernel ahead may just have written them:
  /// nothing here goes through the read-only cache. wait() completes it.
  __device__ void fetch(const Element* row, int k, bool aligned, int slot, int token) const {
    const int first = slot * Config::kSlotK + static_cast<int>(threadIdx.x) % 32 * 8;
    uint4* raw = raw_of(slot, token);
    if (aligned && first + 8 <= k) {
      asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(cute::cast_smem_ptr_to_uint(raw)), "l"(row + first)
                   : "memory");
    } else {
      auto* half = reinterpret_cast<std::uint16_t*>(raw);
#pragma unroll 1
      for (int i = 0; i < 8; ++i) {
        half[i] = first + i < k ? *reinterpret_cast<const volatile std::uint16_t*>(row + first + i) : std::uint16_t{0};
      }
    }
  }
  __device__ static void wait() { asm volatile("cp.async.wait_all;" ::: "memory"); }

  /// A warp turns what it has fetched into digits, in place.
  __device__ void convert(int slot, int token) const {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    const uint4 raw = *raw_of(slot, token);
    __syncwarp();
    float x[8];
    const auto* values = reinterpret_cast<const Element*>(&raw);
#pragma unroll
    for (int i = 0; i < 8; ++i) x[i] = static_cast<float>(values[i]);

    std::uint32_t largest = 0;
#pragma unroll
    for (const float v : x) largest = max(largest, __float_as_uint(v) & 0x7fffffffu);
    largest = __reduce_max_sync(~0u, largest);
    if (largest >= 0x7f800000u) {  // the token goes another way (dot_product in decode.cuh); keep its digits finite
      if (lane == 0) special[token] = 1;
#pragma unroll
      for (float& v : x) v = 0;
      largest = 0;
    }
    // 2^exponent <= largest < 2^(exponent+1); tiny slots are treated as larger ones, so that every factor is a normal
    // number.
    const std::uint32_t exponent = max(largest >> 23, static_cast<std::uint32_t>(kMantissa + 6));
    const float scale = __uint_as_float((254 + kMantissa - exponent) << 23);

    // Even lanes hold k 0...7 of a step, odd ones 8...15: trade halves, so that each makes two whole words.
    const bool odd = lane % 2 == 1;
    float other[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) other[i] = __shfl_xor_sync(~0u, odd ? x[i] : x[4 + i], 1);
    std::uint32_t* out = words + slot * Config::kPlaneWords + lane / 8 * Config::kTileWords +
                         token * Config::kDigits * 16 + lane % 8 / 2;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int column = odd ? 2 + i : i;
      if (odd) {
        store_digits(other[2 * i], x[4 + 2 * i], other[2 * i + 1], x[5 + 2 * i], scale, out + column * 4);
      } else {
        store_digits(x[2 * i], other[2 * i], x[2 * i + 1], other[2 * i + 1], scale, out + column * 4);
      }
    }
    if (lane < Config::kDigits) {  // weights enter the MMA with a factor of their own
      factors[slot * Config::kBlocks * 8 + token * Config::kDigits + lane] = __uint_as_float(
          (exponent - kMantissa - Config::Converter::kIntegerBits + 8 * (Config::kDigits - 1 - lane)) << 23);
    }
  }

 private:
  // The digits of a tile take 192 bytes a token, its activations 128.
  __device__ uint4* raw_of(int slot, int token) const {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    return reinterpret_cast<uint4*>(words + slot * Config::kPlaneWords + lane / 8 * Config::kTileWords +
                                    token * Config::kDigits * 16 + lane % 8 * 4);
  }

  // Four k's, three digits each: a word for each digit's column.
  __device__ static void store_digits(float x0, float x1, float x2, float x3, float scale, std::uint32_t* out) {
    const float x[4] = {x0, x1, x2, x3};
    std::uint32_t u[4];  // the bytes of an integer plus the bias, less the bias, are signed digits
#pragma unroll
    for (int i = 0; i < 4; ++i) u[i] = (__float_as_uint(fmaf(x[i], scale, kRound)) + (kBias - 0x4B400000u)) ^ kBias;
    const std::uint32_t low01 = __byte_perm(u[0], u[1], 0x5140);
    const std::uint32_t low23 = __byte_perm(u[2], u[3], 0x5140);
    out[0] = __byte_perm(__byte_perm(u[0], u[1], 0x0062), __byte_perm(u[2], u[3], 0x0062), 0x5410);
    out[16] = __byte_perm(low01, low23, 0x7632);
    out[32] = __byte_perm(low01, low23, 0x5410);
  }
};

}  // namespace machete::decode
