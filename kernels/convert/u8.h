#pragma once

/// u8: 8 bits, value = q - zero point. Stored like u8b128.

#include "kernels/convert/u8b128.h"

namespace machete::convert {

struct U8 {
  static constexpr WeightType kType = WeightType::kU8;
  static constexpr int kBits = 8;
  static constexpr bool kZeroPoints = true;
  template <class Activation>
  static constexpr float kCodeUnit = 1;

  /// What decode() subtracts in the lane's two rows, and the fractions that integers leave.
  template <class Element>
  struct Zeros {
    std::uint32_t row[2];     // twice each: the zero point - 128 (bf16), + 1024 (fp16)
    std::uint32_t fractions;  // a pair, of the upper row and the lower
  };

  template <class Element, bool kFractional = true>
  CUTE_HOST_DEVICE static Zeros<Element> zeros(std::uint32_t pair) {
    // In fp32, since bf16 has no integers above 256 but even ones.
    const float zero[2] = {low_float<Element>(pair), high_float<Element>(pair)};
    const float whole[2] = {kFractional ? rintf(zero[0]) : zero[0], kFractional ? rintf(zero[1]) : zero[1]};
    constexpr float kOrigin = kIsBf16<Element> ? -128.f : 1024.f;
    const std::uint32_t shifted = pack<Element>(whole[0] + kOrigin, whole[1] + kOrigin);
    return {{twice_low(shifted), twice_high(shifted)}, pack<Element>(zero[0] - whole[0], zero[1] - whole[1])};
  }

  /// As U8b128's, q - zero point exactly, of zero points without their fractions.
  template <class Element>
  CUTE_HOST_DEVICE static void decode(const Words<8>& words, int step, const Zeros<Element>& zeros,
                                      std::uint32_t (&a)[4]) {
    const int first = step / 2 * 4 + step % 2;
    CUTE_UNROLL
    for (int row = 0; row < 2; ++row) {
      const std::uint32_t word = words.word[first + row * 2];
      a[row] = subtract<Element>(minuend<Element, 0>(word), zeros.row[row]);
      a[row + 2] = subtract<Element>(minuend<Element, 1>(word), zeros.row[row]);
    }
  }

 private:
  template <class Element, int kHalf>
  CUTE_HOST_DEVICE static std::uint32_t minuend(std::uint32_t word) {
    if constexpr (kIsBf16<Element>) {
      return U8b128::decode_pair<Element, kHalf>(word);
    } else {
      return U8b128::above_1024<kHalf>(word);
    }
  }
};

}  // namespace machete::convert
