#pragma once

/// e5m2: 8 bits of floating point, stored as they are. Prepack lets no infinity and no NaN come here.

#include <cstdint>

#include "kernels/convert/upper_bytes.h"

namespace machete::convert {

struct E5m2 : WithoutZeroPoints {
  static constexpr WeightType kType = WeightType::kE5m2;
  static constexpr int kBits = 8;

  /// A k16 step of a lane's words (kernels/layout) to the four operand registers, exactly, two values each.
  template <class Element>
  CUTE_HOST_DEVICE static void decode(const Words<8>& words, int step, Zeros<Element>, std::uint32_t (&a)[4]) {
    decode_upper_bytes(words, step, a, [](std::uint32_t codes) { return decode_pair<Element>(codes); });
  }

 private:
  /// Of two codes, each in the upper byte of a half: an f16 but for eight bits of mantissa. bf16 has three bits more of
  /// exponent; the difference of the biases is a power of two, which one multiplication adds, for subnormal codes too.
  template <class Element>
  CUTE_HOST_DEVICE static std::uint32_t decode_pair(std::uint32_t codes) {
    if constexpr (kIsBf16<Element>) {
      return multiply<Element>(mask_or<0x80008000u>(codes, codes >> 3 & 0x0FE00FE0u), 0x77807780u);  // 2^112
    } else {
      return codes;
    }
  }
};

}  // namespace machete::convert
