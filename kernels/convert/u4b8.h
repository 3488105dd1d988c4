#pragma once

/// u4b8: 4 bits, value = q - 8. Stored as q ^ 8, the two's complement of q - 8: zero bytes are zero weights, and
/// integer MMAs read the nibbles as they are.

#include <cstdint>

#if defined(__CUDACC__)
#include <cutlass/bfloat16.h>
#include <cutlass/half.h>
#endif

namespace machete::convert {

struct U4b8 {
  static constexpr int kBits = 4;

  static constexpr std::uint8_t encode(std::uint8_t q) { return q ^ 8u; }
  static constexpr std::uint8_t decode(std::uint8_t stored) { return stored ^ 8u; }
  static constexpr int value(std::uint8_t stored) { return static_cast<int>(stored ^ 8u) - 8; }

#if defined(__CUDACC__)
  /// One word of a tile (kernels/layout) to the four operand registers of a k16 step, q - 8 exactly, two values each.
  ///
  /// The nibble is or-ed under an exponent where one unit in the last place is 1, and the bias 8 undone by the same
  /// instruction: (v & 15) ^ (bits of 2^m + 8) with v = q ^ 8 is 2^m + q. One subtraction leaves q - 8.
  __device__ static void decode(std::uint32_t word, cutlass::bfloat16_t, std::uint32_t (&a)[4]) {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const std::uint32_t biased = mask_xor<0x000F000Fu, 0x43084308u>(word >> (4 * j));  // 128 + q
      asm("sub.rn.bf16x2 %0, %1, %2;" : "=r"(a[j]) : "r"(biased), "r"(0x43084308u));     // - 136
    }
  }

  /// The same in fp16, whose 10 bits of mantissa hold the nibble in two places: one shift instead of three.
  __device__ static void decode(std::uint32_t word, cutlass::half_t, std::uint32_t (&a)[4]) {
#pragma unroll
    for (int j = 0; j < 4; j += 2) {
      const std::uint32_t low = mask_xor<0x000F000Fu, 0x64086408u>(word >> (4 * j));   // 1024 + q
      const std::uint32_t high = mask_xor<0x00F000F0u, 0x64806480u>(word >> (4 * j));  // 1024 + 16 q
      asm("sub.rn.f16x2 %0, %1, %2;" : "=r"(a[j]) : "r"(low), "r"(0x64086408u));       // - 1032
      asm("fma.rn.f16x2 %0, %1, %2, %3;"
          : "=r"(a[j + 1])
          : "r"(high), "r"(0x2C002C00u), "r"(0xD480D480u));  // / 16 - 72
    }
  }

  /// The two operand registers of an 8-bit integer MMA that a word holds: 16 (q - 8) of four k's, of the lane's upper
  /// row and of the one 8 below. The factor is the caller's to undo.
  static constexpr int kIntegerBits = 4;  // of the factor
  __device__ static std::uint32_t upper_row(std::uint32_t word) { return (word << 4) & 0xf0f0f0f0u; }
  __device__ static std::uint32_t lower_row(std::uint32_t word) { return word & 0xf0f0f0f0u; }

 private:
  template <std::uint32_t kMask, std::uint32_t kXor>
  __device__ static std::uint32_t mask_xor(std::uint32_t v) {
    std::uint32_t result;
    asm("lop3.b32 %0, %1, %2, %3, 0x6A;" : "=r"(result) : "r"(v), "n"(kMask), "n"(kXor));  // (v & mask) ^ xor
    return result;
  }
#endif
};

}  // namespace machete::convert
