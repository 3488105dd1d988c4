#pragma once

/// e4m3: 8 bits of floating point, stored as they are. Prepack lets no NaN code come here.

#include <cstdint>

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
    decode_upper_bytes(words, step, a, [](std::uint32_t codes) { return decode_pair<Element>(codes); });
  }

 private:
  /// Of two codes, each in the upper byte of a half.
  template <class Element>
  CUTE_HOST_DEVICE static std::uint32_t decode_pair(std::uint32_t codes) {
    if constexpr (kIsBf16<Element>) {
      return multiply<Element>(mask_or<0x80008000u>(codes, codes >> 4 & 0x07F007F0u), 0x7B807B80u);  // 2^120
    } else {
      return multiply<Element>(mask_or<0x80008000u>(codes, codes >> 1 & 0x3F803F80u), 0x5C005C00u);  // 2^8
    }
  }
};

}  // namespace machete::convert
