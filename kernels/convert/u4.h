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

  /// What U4b8::decode_less takes: a pair, of the lane's upper row and of its lower.
  template <class Element>
  struct Zeros {
    std::uint32_t less;
  };

  /// From the pair of zero points, rounded to integers. Those that are (not kFractional) take one instruction.
  template <class Element, bool kFractional = true>
  CUTE_HOST_DEVICE static Zeros<Element> zeros(std::uint32_t pair) {
    if constexpr (kIsBf16<Element>) {  // - zero / 4, and 32 less in the upper row
      if constexpr (kFractional) return {add<Element>(whole<Element>(pair), 0x42000000u)};
      return {multiply_add<Element>(pair, kLessQuarter, 0x8000C200u)};
    } else {  // 1024 + zero, - 64 - zero
      if constexpr (kFractional) return {multiply_add<Element>(whole<Element>(pair), 0xBC003C00u, 0x63800000u)};
      return {multiply_add<Element>(pair, 0xBC003C00u, 0xD4006400u)};
    }
  }

  /// A pair of what that leaves of the zero points, exactly, in units of kCodeUnit.
  template <class Element>
  CUTE_HOST_DEVICE static std::uint32_t fractions(std::uint32_t pair) {
    if constexpr (kIsBf16<Element>) {
      return multiply_add<Element>(pair, 0x3E803E80u, add<Element>(whole<Element>(pair), 0x42004200u));
    } else {
      return subtract<Element>(pair, subtract<Element>(whole<Element>(pair), 0x64006400u));
    }
  }

  /// As U4b8's, q less the zero point without its fraction.
  template <class Element>
  CUTE_HOST_DEVICE static void decode(const Words<4>& words, int step, const Zeros<Element>& zeros,
                                      std::uint32_t (&a)[4]) {
    U4b8::decode_less<Element>(words.word[step], twice(zeros.less, 0), twice(zeros.less, 1), a);
  }

 private:
  static constexpr std::uint32_t kLessQuarter = 0xBE80BE80u;  // - 1 / 4

  /// bf16: - 32 - zero / 4, fp16: 1024 + zero, where one unit in the last place is an integer's.
  template <class Element>
  CUTE_HOST_DEVICE static std::uint32_t whole(std::uint32_t pair) {
    return kIsBf16<Element> ? multiply_add<Element>(pair, kLessQuarter, 0xC200C200u) : add<Element>(pair, 0x64006400u);
  }
};

}  // namespace machete::convert
