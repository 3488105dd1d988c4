#pragma once

/// u8: 8 bits, value = q - zero point. Stored like u8b128.

#include "kernels/convert/u8b128.h"

namespace machete::convert {

struct U8 {
  static constexpr WeightType kType = WeightType::kU8;
  static constexpr int kBits = 8;
  static constexpr bool kZeroPoints = true;
  template <class Activation>
  static constexpr float kCodeUnit = U8b128::kCodeUnit<Activation>;

  /// What U8b128::decode_less takes for the lane's two rows, and the fractions that integers leave, in units of
  /// kCodeUnit.
  template <class Element>
  struct Zeros {
    std::uint32_t upper;
    std::uint32_t lower;
    std::uint32_t fractions;  // a pair, of the upper row and the lower
  };

  template <class Element, bool kFractional = true>
  CUTE_HOST_DEVICE static Zeros<Element> zeros(std::uint32_t pair) {
    // In fp32, since bf16 has no integers above 256 but even ones.
    const float zero[2] = {low_float<Element>(pair), high_float<Element>(pair)};
    const float whole[2] = {kFractional ? rintf(zero[0]) : zero[0], kFractional ? rintf(zero[1]) : zero[1]};
    constexpr float kUnit = kCodeUnit<Element>;
    const std::uint32_t numbers = kIsBf16<Element> ? pack<Element>(-kUnit * whole[0], -kUnit * whole[1])
                                                   : pack<Element>(1024 + whole[0], 1024 + whole[1]);
    return {twice(numbers, 0), twice(numbers, 1),
            pack<Element>(kUnit * (zero[0] - whole[0]), kUnit * (zero[1] - whole[1]))};
  }

  /// As U8b128's, q less the zero point without its fraction.
  template <class Element>
  CUTE_HOST_DEVICE static void decode(const Words<8>& words, int step, const Zeros<Element>& zeros,
                                      std::uint32_t (&a)[4]) {
    U8b128::decode_less<Element>(words, step, zeros.upper, zeros.lower, a);
  }
};

}  // namespace machete::convert
