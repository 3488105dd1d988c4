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

  /// What U8b128::decode_less takes: a pair, of the lane's upper row and of its lower.
  template <class Element>
  struct Zeros {
    std::uint32_t less;
  };

  /// From the pair of zero points, rounded to integers unless they are (not kFractional).
  template <class Element, bool kFractional = true>
  CUTE_HOST_DEVICE static Zeros<Element> zeros(std::uint32_t pair) {
    // In fp32, since bf16 has no integers above 256 but even ones.
    const auto less = [](float zero) {
      const float whole = kFractional ? rintf(zero) : zero;
      return kIsBf16<Element> ? -kCodeUnit<Element> * whole : 1024 + whole;
    };
    return {pack<Element>(less(low_float<Element>(pair)), less(high_float<Element>(pair)))};
  }

  /// A pair of what that leaves of the zero points, exactly, in units of kCodeUnit.
  template <class Element>
  CUTE_HOST_DEVICE static std::uint32_t fractions(std::uint32_t pair) {
    const auto fraction = [](float zero) { return kCodeUnit<Element> * (zero - rintf(zero)); };
    return pack<Element>(fraction(low_float<Element>(pair)), fraction(high_float<Element>(pair)));
  }

  /// As U8b128's, q less the zero point without its fraction.
  template <class Element>
  CUTE_HOST_DEVICE static void decode(const Words<8>& words, int step, const Zeros<Element>& zeros,
                                      std::uint32_t (&a)[4]) {
    U8b128::decode_less<Element>(words, step, twice(zeros.less, 0), twice(zeros.less, 1), a);
  }
};

}  // namespace machete::convert
