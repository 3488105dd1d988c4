#pragma once

/// u4b8 and s4: 4 bits, value = q - 8. Stored as q ^ 8, the two's complement of q - 8: zero bytes are zero weights, and
/// integer MMAs read the nibbles as they are.

#include <cstdint>

#include "kernels/convert/pairs.h"
#include "kernels/convert/words.h"

namespace machete::convert {

struct U4b8 : WithoutZeroPoints {
  static constexpr WeightType kType = WeightType::kU4b8;
  static constexpr int kBits = 4;

  static constexpr int value(std::uint8_t stored) { return static_cast<int>(stored ^ 8u) - 8; }

  /// A k16 step of a lane's words (kernels/layout) to the four operand registers, q - 8 exactly, two values each.
  template <class Element>
  CUTE_HOST_DEVICE static void decode(const Words<4>& words, int step, Zeros<Element>, std::uint32_t (&a)[4]) {
    if constexpr (kIsBf16<Element>) {
      decode_less<Element>(words.word[step], 0x43084308u, 0x43084308u, a);  // - 136
    } else {
      decode_less<Element>(words.word[step], 0x64086408u, 0xD480D480u, a);  // - 1032, - 72
    }
  }

  /// A k32 step of a lane's words to the four operand registers of an 8-bit MMA: kCodeUnit (q - 8), four values each.
  template <class Activation>
  static constexpr float kCodeUnit = std::is_same_v<Activation, std::int8_t> ? 16 : 1;
  template <class Activation>
  CUTE_HOST_DEVICE static void decode_bytes(const Words<4>& words, int step, std::uint32_t (&a)[4]) {
    CUTE_UNROLL
    for (int half = 0; half < 2; ++half) {
      const std::uint32_t word = words.word[2 * step + half];
      if constexpr (std::is_same_v<Activation, std::int8_t>) {
        a[2 * half] = word << 4 & 0xf0f0f0f0u;
        a[2 * half + 1] = word & 0xf0f0f0f0u;
      } else {  // 0 ... 7, and of 8 ... 15 the amounts of -8 ... -1, in e4m3; then their signs
        const std::uint32_t negative = word ^ 0x88888888u;
        const std::uint32_t low = look_up(0x44403800u, 0x4E4C4A48u, word) | look_up(0x4A4C4E50u, 0x38404448u, negative);
        const std::uint32_t high =
            look_up(0x44403800u, 0x4E4C4A48u, word >> 16) | look_up(0x4A4C4E50u, 0x38404448u, negative >> 16);
        a[2 * half] = mask_or<0x80808080u>(word << 4, permute_bytes<0x6420>(low, high));
        a[2 * half + 1] = mask_or<0x80808080u>(word, permute_bytes<0x7531>(low, high));
      }
    }
  }

  /// As decode(), q less another number.
  ///
  /// The nibble is or-ed under an exponent where one unit in the last place is 1, and the bias 8 undone by the same
  /// instruction: (v & 15) ^ (bits of 2^m + 8) with v = q ^ 8 is 2^m + q. One subtraction leaves q - 8, or whatever the
  /// number. fp16's 10 bits of mantissa hold the nibble in two places, which saves two of three shifts.
  ///
  /// bf16: upper is 128 + the upper row's number, lower the same of the lower row, 8 below. fp16: upper is 1024 + the
  /// number, lower is -64 - the number.
  template <class Element>
  CUTE_HOST_DEVICE static void decode_less(std::uint32_t word, std::uint32_t upper, std::uint32_t lower,
                                           std::uint32_t (&a)[4]) {
    if constexpr (kIsBf16<Element>) {
      CUTE_UNROLL
      for (int j = 0; j < 4; ++j) {
        const std::uint32_t biased = mask_xor<0x000F000Fu, 0x43084308u>(word >> (4 * j));  // 128 + q
        a[j] = subtract<Element>(biased, j % 2 == 0 ? upper : lower);
      }
    } else {
      CUTE_UNROLL
      for (int j = 0; j < 4; j += 2) {
        const std::uint32_t low = mask_xor<0x000F000Fu, 0x64086408u>(word >> (4 * j));   // 1024 + q
        const std::uint32_t high = mask_xor<0x00F000F0u, 0x64806480u>(word >> (4 * j));  // 1024 + 16 q
        a[j] = subtract<Element>(low, upper);
        a[j + 1] = multiply_add<Element>(high, 0x2C002C00u, lower);  // / 16
      }
    }
  }

  /// The two operand registers of an 8-bit integer MMA that a word holds: 16 (q - 8) of four k's, of the lane's upper
  /// row and of the one 8 below. The factor is the caller's to undo.
  static constexpr int kIntegerBits = 4;  // of the factor
  CUTE_HOST_DEVICE static std::uint32_t upper_row(std::uint32_t word) { return (word << 4) & 0xf0f0f0f0u; }
  CUTE_HOST_DEVICE static std::uint32_t lower_row(std::uint32_t word) { return word & 0xf0f0f0f0u; }
};

}  // namespace machete::convert
