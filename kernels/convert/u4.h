#pragma once

/// u4: 4 bits, value = q - zero point. Stored like u4b8.

#include "kernels/convert/u4b8.h"

namespace machete::convert {

struct U4 {
  static constexpr WeightType kType = WeightType::kU4;
  static constexpr int kBits = 4;
  static constexpr bool kZeroPoints = true;

  /// What decode() subtracts in the lane's two rows (U4b8::decode_less), and the fractions that integers leave.
  template <class Element>
  struct Zeros {
    std::uint32_t upper;
    std::uint32_t lower;
    std::uint32_t fractions;  // a pair, of the upper row and the lower
  };

  /// From the pair of zero points. Adding 128 (1024 in fp16) rounds to an integer, and what that leaves is exact.
  template <class Element>
  CUTE_HOST_DEVICE static Zeros<Element> zeros(std::uint32_t pair) {
    constexpr std::uint32_t kOrigin = kIsBf16<Element> ? 0x43004300u : 0x64006400u;
    const std::uint32_t shifted = add<Element>(pair, kOrigin);
    const std::uint32_t lower = kIsBf16<Element> ? shifted : subtract<Element>(0x63806380u, shifted);  // 960
    return {twice_low(shifted), twice_high(lower), subtract<Element>(pair, subtract<Element>(shifted, kOrigin))};
  }

  /// As U4b8's, q - zero point exactly, of zero points without their fractions.
  template <class Element>
  CUTE_HOST_DEVICE static void decode(const Words<4>& words, int step, const Zeros<Element>& zeros,
                                      std::uint32_t (&a)[4]) {
    U4b8::decode_less<Element>(words.word[step], zeros.upper, zeros.lower, a);
  }
};

}  // namespace machete::convert
