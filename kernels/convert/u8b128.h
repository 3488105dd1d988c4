#pragma once

/// u8b128 and s8: 8 bits, value = q - 128. Stored as q ^ 128, the two's complement of q - 128.

#include <cstdint>

#include "kernels/convert/folded.h"
#include "kernels/convert/pairs.h"
#include "kernels/convert/words.h"

namespace machete::convert {

struct U8b128 : OperandBytes {
  static constexpr WeightType kType = WeightType::kU8b128;
  static constexpr int kBits = 8;

  template <class Activation>
  static constexpr float kCodeUnit = kIsBf16<Activation> ? 0x1p-6f : 1;

  /// A k16 step of a lane's words (kernels/layout) to the four operand registers, exactly, two values each.
  template <class Element>
  CUTE_HOST_DEVICE static void decode(const Words<8>& words, int step, Zeros<Element>, std::uint32_t (&a)[4]) {
    const std::uint32_t number = kIsBf16<Element> ? 0xC000C000u : 0x64806480u;  // - 128 / 64, 1024 + 128
    decode_less<Element>(words, step, number, number, a);
  }

  /// As decode(), q less another number, kCodeUnit times. In fp16 the byte, its bias undone, lies under 1024. By itself
  /// it is the bf16 2^-133 q: subnormal, or, in the first binade above, spaced alike; 2^127, the largest power of two,
  /// makes it q / 64.
  ///
  /// upper and lower are of the lane's two rows. bf16: - number / 64. fp16: 1024 + number.
  template <class Element>
  CUTE_HOST_DEVICE static void decode_less(const Words<8>& words, int step, std::uint32_t upper, std::uint32_t lower,
                                           std::uint32_t (&a)[4]) {
    for_each_pair<kIsBf16<Element> ? 0 : 0x64646464u>(words, step, [&](int j, std::uint32_t codes) {
      const std::uint32_t number = j % 2 == 0 ? upper : lower;
      if constexpr (kIsBf16<Element>) {
        a[j] = multiply_add<Element>(codes, 0x7F007F00u, number);
      } else {
        a[j] = subtract<Element>(codes, number);
      }
    });
  }

  /// As decode() in bf16, scaled.
  CUTE_HOST_DEVICE static FoldedScales fold(std::uint32_t scales) {
    return {multiply<Bf16>(scales, 0x76007600u), multiply<Bf16>(scales, 0xB700B700u)};  // 2^109; - 128 2^-24
  }
  CUTE_HOST_DEVICE static void decode_folded(const Words<8>& words, int step, const FoldedScales& scales,
                                             std::uint32_t (&a)[4]) {
    for_each_pair<0>(words, step, [&](int j, std::uint32_t codes) { a[j] = scales(codes, j % 2); });
  }

 private:
  /// Calls visit(register, its two codes q, each under a byte of kAbove).
  template <std::uint32_t kAbove, class Visit>
  CUTE_HOST_DEVICE static void for_each_pair(const Words<8>& words, int step, Visit visit) {
    const int first = step / 2 * 4 + step % 2;
    CUTE_UNROLL
    for (int row = 0; row < 2; ++row) {
      const std::uint32_t word = words.word[first + row * 2] ^ 0x80808080u;
      visit(row, permute_bytes<0x4140>(word, kAbove));
      visit(row + 2, permute_bytes<0x4342>(word, kAbove));
    }
  }
};

}  // namespace machete::convert
