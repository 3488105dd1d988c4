#pragma once

/// u4: 4 bits, value = q - zero point. Stored like u4b8.

#include "kernels/convert/u4b8.h"

namespace machete::convert {

struct U4 {
  static constexpr WeightType kType = WeightType::kU4;
  static constexpr int kBits = 4;
  static constexpr bool kZeroPoints = true;

  template <class Activation>
  static constexpr float kCodeUnit = U4b8::kCodeUnit<Activation>;

  /// What U4b8::decode_less takes for the lane's two rows, and the fractions that integers leave, in units of
  /// kCodeUnit.
  template <class Element>
  struct Zeros {
    std::uint32_t upper;
    std::uint32_t lower;
    std::uint32_t fractions;  // a pair, of the upper row and the lower
  };

  /// From the pair of zero points. Adding 128 (1024 in fp16) rounds to an integer, and what that leaves is exact.
  template <class Element>
  CUTE_HOST_DEVICE static Zeros<Element> zeros(std::uint32_t pair) {
    if constexpr (kIsBf16<Element>) {
      constexpr std::uint32_t kQuarter = 0x3E803E80u;
      const std::uint32_t shifted = add<Element>(pair, 0x43004300u);                                    // + 128
      const std::uint32_t lower = multiply_add<Element>(shifted, kQuarter ^ 0x80008000u, 0x42004200u);  // + 32
      return {twice_low(multiply<Element>(shifted, kQuarter ^ 0x80008000u)), twice_high(lower),
              multiply_add<Element>(pair, kQuarter, lower)};
    } else {
      const std::uint32_t shifted = add<Element>(pair, 0x64006400u);        // + 1024
      const std::uint32_t lower = subtract<Element>(0x63806380u, shifted);  // 960 -
      const std::uint32_t whole = subtract<Element>(shifted, 0x64006400u);
      return {twice_low(shifted), twice_high(lower), subtract<Element>(pair, whole)};
    }
  }

  /// As U4b8's, q less the zero point without its fraction.
  template <class Element>
  CUTE_HOST_DEVICE static void decode(const Words<4>& words, int step, const Zeros<Element>& zeros,
                                      std::uint32_t (&a)[4]) {
    U4b8::decode_less<Element>(words.word[step], zeros.upper, zeros.lower, a);
  }
};

}  // namespace machete::convert
