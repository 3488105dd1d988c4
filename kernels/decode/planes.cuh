#pragma once

#include <cute/config.hpp>

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

  /// A warp converts one slot of one token. `row` is the token's activations, of which k exist.
  __device__ void convert(const Element* row, int k, bool aligned, int slot, int token) const {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    float x[8];
    load(row, slot * Config::kSlotK + lane * 8, k, aligned, x);

    std::uint32_t largest = 0;
#pragma unroll
    for (const float v : x) largest = max(largest, __float_as_uint(v) & 0x7fffffffu);
    largest = __reduce_max_sync(~0u, largest);
    if (largest >= 0x7f800000u) {  // the token goes another way (dot_product below); keep its digits finite
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
    if (lane < Config::kDigits) {  // weights enter the MMA as 16 (q - 8): four more powers of two
      factors[slot * Config::kBlocks * 8 + token * Config::kDigits + lane] =
          __uint_as_float((exponent - kMantissa - 4 + 8 * (Config::kDigits - 1 - lane)) << 23);
    }
  }

 private:
  __device__ static void load(const Element* row, int first, int k, bool aligned, float (&x)[8]) {
    if (aligned && first + 8 <= k) {
      uint4 packed;  // written by the kernel ahead: not through the read-only cache
      asm volatile("ld.global.v4.u32 {%0, %1, %2, %3}, [%4];"
                   : "=r"(packed.x), "=r"(packed.y), "=r"(packed.z), "=r"(packed.w)
                   : "l"(row + first)
                   : "memory");
      const auto* values = reinterpret_cast<const Element*>(&packed);
#pragma unroll
      for (int i = 0; i < 8; ++i) x[i] = static_cast<float>(values[i]);
    } else {
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        x[i] = first + i < k ? static_cast<float>(
                                   Element::bitcast(*reinterpret_cast<const volatile std::uint16_t*>(row + first + i)))
                             : 0.f;
      }
    }
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
