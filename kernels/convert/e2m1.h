#pragma once

/// e2m1: 4 bits of floating point, stored as they are.

#include <cstdint>

#include "kernels/convert/pairs.h"
#include "kernels/convert/words.h"

namespace machete::convert {

struct E2m1 : WithoutZeroPoints {
  static constexpr WeightType kType = WeightType::kE2m1;
  static constexpr int kBits = 4;

  /// A k16 step of a lane's words (kernels/layout) to the four operand registers, exactly, two values each. As E4m3's.
  template <class Element>
  CUTE_HOST_DEVICE static void decode(const Words<4>& words, int step, Zeros<Element>, std::uint32_t (&a)[4]) {
    const std::uint32_t word = words.word[step];
    CUTE_UNROLL
    for (int j = 0; j < 4; ++j) {
      const std::uint32_t sign = word << (12 - 4 * j);
      if constexpr (kIsBf16<Element>) {
        a[j] = multiply<Element>(mask_or<0x80008000u>(sign, shift_left(word, 6 - 4 * j) & 0x01C001C0u),
                                 0x7E807E80u);  // 2^126
      } else {
        a[j] = multiply<Element>(mask_or<0x80008000u>(sign, shift_left(word, 9 - 4 * j) & 0x0E000E00u),
                                 0x74007400u);  // 2^14
      }
    }
  }

 private:
  CUTE_HOST_DEVICE static std::uint32_t shift_left(std::uint32_t word, int by) {
    return by >= 0 ? word << by : word >> -by;
  }
};

}  // namespace machete::convert
