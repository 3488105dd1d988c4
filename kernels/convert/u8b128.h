#pragma once

/// u8b128 and s8: 8 bits, value = q - 128. Stored as q ^ 128, the two's complement of q - 128.

#include <cstdint>

#include "kernels/convert/pairs.h"
#include "kernels/convert/words.h"

namespace machete::convert {

struct U8b128 : OperandBytes {
  static constexpr WeightType kType = WeightType::kU8b128;
  static constexpr int kBits = 8;

  /// A k16 step of a lane's words (kernels/layout) to the four operand registers, q - 128 exactly, two values each.
  template <class Element>
  CUTE_HOST_DEVICE static void decode(const Words<8>& words, int step, Zeros<Element>, std::uint32_t (&a)[4]) {
    const int first = step / 2 * 4 + step % 2;
    CUTE_UNROLL
    for (int row = 0; row < 2; ++row) {
      const std::uint32_t word = words.word[first + row * 2];
      a[row] = decode_pair<Element, 0>(word);
      a[row + 2] = decode_pair<Element, 1>(word);
    }
  }

  /// Two neighbouring bytes. In fp16, the byte with its bias undone lies under 1024. A bf16 has room for seven bits:
  /// those under 128 less 128, or less 256 where the sign is set, which is the sign or-ed into 128's exponent.
  template <class Element, int kHalf>
  CUTE_HOST_DEVICE static std::uint32_t decode_pair(std::uint32_t word) {
    if constexpr (kIsBf16<Element>) {
      const std::uint32_t bytes = permute_bytes<(kHalf == 0 ? 0x4140 : 0x4342)>(word, 0);
      return subtract<Element>(mask_or<0x007F007Fu>(bytes, 0x43004300u), mask_or<0x00800080u>(bytes, 0x43004300u));
    } else {
      return subtract<Element>(above_1024<kHalf>(word), 0x64806480u);  // - 1152
    }
  }

  /// 1024 + q, in fp16.
  template <int kHalf>
  CUTE_HOST_DEVICE static std::uint32_t above_1024(std::uint32_t word) {
    return permute_bytes<(kHalf == 0 ? 0x4140 : 0x4342)>(word ^ 0x80808080u, 0x64646464u);
  }
};

}  // namespace machete::convert
