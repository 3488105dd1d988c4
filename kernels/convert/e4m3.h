#pragma once

/// e4m3: 8 bits of floating point, stored as they are. Prepack lets no NaN code come here.

#include <cstdint>

#include "kernels/convert/folded.h"
#include "kernels/convert/upper_bytes.h"

namespace machete::convert {

struct E4m3 : OperandBytes {
  static constexpr WeightType kType = WeightType::kE4m3;
  static constexpr int kBits = 8;

  /// A k16 step of a lane's words (kernels/layout) to the four operand registers, exactly, two values each.
  ///
  /// A code's exponent and mantissa are moved to where the wider type has its own; the difference of the exponents'
  /// biases is a power of two, which one multiplication adds, for subnormal codes as well.
  template <class Element>
  CUTE_HOST_DEVICE static void decode(const Words<8>& words, int step, Zeros<Element>, std::uint32_t (&a)[4]) {
    decode_upper_bytes(words, step, a, [](std::uint32_t codes) {
      return multiply<Element>(moved<Element>(codes), kIsBf16<Element> ? 0x7B807B80u : 0x5C005C00u);  // 2^120, 2^8
    });
  }

  /// As decode() in bf16, scaled: the power of two is in the scale.
  CUTE_HOST_DEVICE static FoldedScales fold(std::uint32_t scales) {
    return {multiply<Bf16>(scales, 0x6F806F80u), 0};  // 2^120 2^-24
  }
  CUTE_HOST_DEVICE static void decode_folded(const Words<8>& words, int step, const FoldedScales& scales,
                                             std::uint32_t (&a)[4]) {
    decode_upper_bytes(words, step, a, [](std::uint32_t codes) { return moved<Bf16>(codes); });
    scales.multiply_all(a);
  }

 private:
  /// Two codes, each in the upper byte of a half, as numbers of the wider type: 2^-120 (bf16) or 2^-8 of their own.
  template <class Element>
  CUTE_HOST_DEVICE static std::uint32_t moved(std::uint32_t codes) {
    return kIsBf16<Element> ? mask_or<0x80008000u>(codes, codes >> 4 & 0x07F007F0u)
                            : mask_or<0x80008000u>(codes, codes >> 1 & 0x3F803F80u);
  }
};

}  // namespace machete::convert
