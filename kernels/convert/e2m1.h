#pragma once

/// e2m1: 4 bits of floating point, stored as they are; for 16-bit activations braided.

#include <cstdint>

#include "kernels/convert/braid.h"
#include "kernels/convert/pairs.h"
#include "kernels/convert/words.h"

namespace machete::convert {

struct E2m1 : WithoutZeroPoints {
  static constexpr WeightType kType = WeightType::kE2m1;
  static constexpr int kBits = 4;

  /// A k16 step of a lane's words (kernels/layout) to the four operand registers, exactly, two values each. As E4m3's.
  template <class Element>
  CUTE_HOST_DEVICE static void decode(const Words<4>& words, int step, Zeros<Element>, std::uint32_t (&a)[4]) {
    CUTE_UNROLL
    for (int j = 0; j < 4; ++j) {
      const std::uint32_t pair = Braid::unravel(words.word[step], j) & (Braid::kSigns | Braid::kAmounts);
      if constexpr (kIsBf16<Element>) {
        a[j] = multiply<Element>(pair, 0x7E807E80u);  // 2^126
      } else {
        a[j] = multiply<Element>(mask_or<Braid::kSigns>(pair, (pair & Braid::kAmounts) << 3), 0x74007400u);  // 2^14
      }
    }
  }

  /// A k32 step of a lane's words to the four operand registers of the MMA of e4m3, four values each.
  template <class Activation>
  CUTE_HOST_DEVICE static void decode_bytes(const Words<4>& words, int step, std::uint32_t (&a)[4]) {
    CUTE_UNROLL
    for (int half = 0; half < 2; ++half) {
      const std::uint32_t word = words.word[2 * step + half];
      const std::uint32_t amounts = word & 0x77777777u;
      const std::uint32_t low = look_up(0x3C383000u, 0x4C484440u, amounts);
      const std::uint32_t high = look_up(0x3C383000u, 0x4C484440u, amounts >> 16);
      a[2 * half] = mask_or<0x80808080u>(word << 4, permute_bytes<0x6420>(low, high));
      a[2 * half + 1] = mask_or<0x80808080u>(word, permute_bytes<0x7531>(low, high));
    }
  }
};

}  // namespace machete::convert
