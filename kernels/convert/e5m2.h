#pragma once

/// e5m2: 8 bits of floating point, stored as they are. Prepack lets no infinity and no NaN come here.

#include <cstdint>

#include "kernels/convert/folded.h"
#include "kernels/convert/halves.h"

namespace machete::convert {

struct E5m2 : WithoutZeroPoints {
  static constexpr WeightType kType = WeightType::kE5m2;
  static constexpr int kBits = 8;

  /// A k16 step of a lane's words (kernels/layout) to the four operand registers, exactly, two values each. A code in
  /// the upper byte of a half is an f16 but for eight bits of mantissa. bf16 has three bits more of exponent; the
  /// difference of the biases is a power of two, which one multiplication adds, for subnormal codes too.
  template <class Element>
  CUTE_HOST_DEVICE static void decode(const Words<8>& words, int step, Zeros<Element>, std::uint32_t (&a)[4]) {
    decode_halves(words, step, a, [](std::uint32_t word, int which) {
      if constexpr (kIsBf16<Element>) return multiply<Element>(moved(word, which), 0x77807780u);  // 2^112
      return which == 0 ? permute_bytes<0x1404>(word, 0) : permute_bytes<0x3424>(word, 0);
    });
  }

  /// As decode() in bf16, scaled.
  CUTE_HOST_DEVICE static FoldedScales fold(std::uint32_t scales) {
    return {multiply<Bf16>(scales, 0x6B806B80u), 0};  // 2^112 2^-24
  }
  CUTE_HOST_DEVICE static void decode_folded(const Words<8>& words, int step, const FoldedScales& scales,
                                             std::uint32_t (&a)[4]) {
    decode_halves(words, step, a, moved);
    scales.multiply_all(a);
  }

 private:
  /// Two codes as numbers of bf16, 2^-112 of their own.
  CUTE_HOST_DEVICE static std::uint32_t moved(std::uint32_t word, int half) {
    return move_signed_bytes<5, 0x8FE08FE0u>(word, half);
  }
};

}  // namespace machete::convert
