#pragma once

/// e4m3: 8 bits of floating point, stored as they are. Prepack lets no NaN code come here.

#include <cstdint>

#include "kernels/convert/folded.h"
#include "kernels/convert/halves.h"

namespace machete::convert {

struct E4m3 : OperandBytes {
  static constexpr WeightType kType = WeightType::kE4m3;
  static constexpr int kBits = 8;

  /// A k16 step of a lane's words (kernels/layout) to the four operand registers, exactly, two values each.
  ///
  /// f16 by the card's own conversion, which bf16 has not. There exponent and mantissa are moved to where the wider
  /// type has its own; the difference of the exponents' biases is a power of two, which one multiplication adds, for
  /// subnormal codes as well.
  template <class Element>
  CUTE_HOST_DEVICE static void decode(const Words<8>& words, int step, Zeros<Element>, std::uint32_t (&a)[4]) {
    decode_halves(words, step, a, [](std::uint32_t word, int which) {
      return kIsBf16<Element> ? multiply<Element>(moved(word, which), 0x7B807B80u) : to_f16(word, which);  // 2^120
    });
  }

  /// As decode() in bf16, scaled: the power of two is in the scale.
  CUTE_HOST_DEVICE static FoldedScales fold(std::uint32_t scales) {
    return {multiply<Bf16>(scales, 0x6F806F80u), 0};  // 2^120 2^-24
  }
  CUTE_HOST_DEVICE static void decode_folded(const Words<8>& words, int step, const FoldedScales& scales,
                                             std::uint32_t (&a)[4]) {
    decode_halves(words, step, a, moved);
    scales.multiply_all(a);
  }

 private:
  /// Two codes, half 0 of the word's lower bytes.
  CUTE_HOST_DEVICE static std::uint32_t to_f16(std::uint32_t word, int half) {
#if defined(__CUDA_ARCH__)
    std::uint16_t halves[2];
    asm("mov.b32 {%0, %1}, %2;" : "=h"(halves[0]), "=h"(halves[1]) : "r"(word));
    std::uint32_t result;
    asm("cvt.rn.f16x2.e4m3x2 %0, %1;" : "=r"(result) : "h"(halves[half]));
    return result;
#else
    const auto value = [&](int byte) {
      return static_cast<float>(cutlass::float_e4m3_t::bitcast(static_cast<std::uint8_t>(word >> (8 * byte))));
    };
    return pack<cutlass::half_t>(value(2 * half), value(2 * half + 1));
#endif
  }

  /// Two codes as numbers of bf16, 2^-120 of their own.
  CUTE_HOST_DEVICE static std::uint32_t moved(std::uint32_t word, int half) {
    return move_signed_bytes<4, 0x87F087F0u>(word, half);
  }
};

}  // namespace machete::convert
