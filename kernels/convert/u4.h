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

  /// From the pair of zero points. What has one unit in the last place is rounded to an integer, and what that leaves
  /// is exact. Integers (not kFractional) leave nothing, and their numbers do not wait for each other.
  template <class Element, bool kFractional = true>
  CUTE_HOST_DEVICE static Zeros<Element> zeros(std::uint32_t pair) {
    if constexpr (kIsBf16<Element>) {
      constexpr std::uint32_t kQuarter = 0x3E803E80u;
      constexpr std::uint32_t kLessQuarter = kQuarter ^ 0x80008000u;
      const std::uint32_t upper = multiply_add<Element>(pair, kLessQuarter, 0xC200C200u);  // - 32
      const std::uint32_t lower =
          kFractional ? add<Element>(upper, 0x42004200u) : multiply<Element>(pair, kLessQuarter);  // + 32
      return {twice(upper, 0), twice(lower, 1), multiply_add<Element>(pair, kQuarter, lower)};
    } else {
      const std::uint32_t upper = add<Element>(pair, 0x64006400u);  // + 1024
      const std::uint32_t lower =
          kFractional ? subtract<Element>(0x63806380u, upper) : subtract<Element>(0xD400D400u, pair);  // 960 -, - 64 -
      return {twice(upper, 0), twice(lower, 1), subtract<Element>(pair, subtract<Element>(upper, 0x64006400u))};
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
