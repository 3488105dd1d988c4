#pragma once

/// u4b8 and s4: 4 bits, value = q - 8. Stored as q ^ 8, the two's complement of q - 8: zero bytes are zero weights, and
/// integer MMAs read the nibbles as they are.

#include <cstdint>

#include "kernels/convert/folded.h"
#include "kernels/convert/pairs.h"
#include "kernels/convert/words.h"

namespace machete::convert {

struct U4b8 : WithoutZeroPoints {
  static constexpr WeightType kType = WeightType::kU4b8;
  static constexpr int kBits = 4;

  static constexpr int value(std::uint8_t stored) { return static_cast<int>(stored ^ 8u) - 8; }

  /// What decoded codes are multiples of: with activations of this type the operand holds kCodeUnit (q - 8).
  template <class Activation>
  static constexpr float kCodeUnit = std::is_same_v<Activation, std::int8_t>             ? 16
                                     : std::is_same_v<Activation, cutlass::float_e4m3_t> ? 0x1p-9f
                                     : kIsBf16<Activation>                               ? 0.25f
                                                                                         : 1;

  /// A k16 step of a lane's words (kernels/layout) to the four operand registers, exactly, two values each.
  template <class Element>
  CUTE_HOST_DEVICE static void decode(const Words<4>& words, int step, Zeros<Element>, std::uint32_t (&a)[4]) {
    if constexpr (kIsBf16<Element>) {
      decode_less<Element>(words.word[step], 0xC208C208u, 0xC000C000u, a);  // - 34, - 2
    } else {
      decode_less<Element>(words.word[step], 0x64086408u, 0xD480D480u, a);  // - 1032, - 72
    }
  }

  /// A k32 step of a lane's words to the four operand registers of an 8-bit MMA, four values each.
  template <class Activation>
  CUTE_HOST_DEVICE static void decode_bytes(const Words<4>& words, int step, std::uint32_t (&a)[4]) {
    CUTE_UNROLL
    for (int half = 0; half < 2; ++half) {
      const std::uint32_t word = words.word[2 * step + half];
      if constexpr (std::is_same_v<Activation, std::int8_t>) {
        a[2 * half] = word << 4 & 0xf0f0f0f0u;
        a[2 * half + 1] = word & 0xf0f0f0f0u;
      } else {
        a[2 * half] = to_e4m3(word);
        a[2 * half + 1] = to_e4m3(word >> 4);
      }
    }
  }

  /// The lower nibbles to e4m3, whose bits from 0 to 8 are the numbers 0 to 8 times 2^-9: subnormal, but for the last.
  /// So of v = q ^ 8 the amount is v or 16 - v = (v ^ 15) + 1, and the sign goes above it.
  CUTE_HOST_DEVICE static std::uint32_t to_e4m3(std::uint32_t word) {
    const std::uint32_t negative = word >> 3 & 0x01010101u;
    return ((word & 0x0F0F0F0Fu) ^ negative * 0x0Fu) + negative * 0x81u;
  }

  /// As decode() in bf16, scaled. Nibbles, where they lie in a word, are the numbers 2^-133 q and 2^-129 q: see
  /// decode_less().
  CUTE_HOST_DEVICE static FoldedScales fold(std::uint32_t scales) {
    return {multiply<Bf16>(scales, 0x74007600u), multiply<Bf16>(scales, 0xB500B500u)};  // 2^105, 2^109; - 8 2^-24
  }
  CUTE_HOST_DEVICE static void decode_folded(const Words<4>& words, int step, const FoldedScales& scales,
                                             std::uint32_t (&a)[4]) {
    CUTE_UNROLL
    for (int j = 0; j < 4; j += 2) {
      const std::uint32_t nibbles = words.word[step] >> (4 * j);
      a[j] = scales(mask_xor<0x000F000Fu, 0x00080008u>(nibbles), 0);
      a[j + 1] = scales(mask_xor<0x00F000F0u, 0x00800080u>(nibbles), 1);
    }
  }

  /// As decode(), q less another number, kCodeUnit times.
  ///
  /// The lower of two nibbles is or-ed under an exponent where one unit in the last place is 1, and the bias 8 undone
  /// by the same instruction: (v & 15) ^ (bits of 2^m + 8) with v = q ^ 8 is 2^m + q. The upper nibble stays where it
  /// is, which saves two of three shifts: fp16's mantissa has room for it, as 1024 + 16 q. bf16's has not, but by
  /// themselves its bits are the number 16 q 2^-133: subnormal, or, in the first binade above, spaced alike. 2^127, the
  /// largest power of two, makes it q / 4. One more addition in the same instruction leaves q less the number.
  ///
  /// upper and lower are of the lane's two rows. bf16: - (128 + number) / 4, - number / 4. fp16: 1024 + number,
  /// - 64 - number.
  template <class Element>
  CUTE_HOST_DEVICE static void decode_less(std::uint32_t word, std::uint32_t upper, std::uint32_t lower,
                                           std::uint32_t (&a)[4]) {
    CUTE_UNROLL
    for (int j = 0; j < 4; j += 2) {
      const std::uint32_t nibbles = word >> (4 * j);
      if constexpr (kIsBf16<Element>) {
        a[j] = multiply_add<Element>(mask_xor<0x000F000Fu, 0x43084308u>(nibbles), 0x3E803E80u, upper);
        a[j + 1] = multiply_add<Element>(mask_xor<0x00F000F0u, 0x00800080u>(nibbles), 0x7F007F00u, lower);
      } else {
        a[j] = subtract<Element>(mask_xor<0x000F000Fu, 0x64086408u>(nibbles), upper);
        a[j + 1] = multiply_add<Element>(mask_xor<0x00F000F0u, 0x64806480u>(nibbles), 0x2C002C00u, lower);  // / 16
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
