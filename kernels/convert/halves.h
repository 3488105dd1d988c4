#pragma once

#include <cstdint>

#include "kernels/convert/pairs.h"
#include "kernels/convert/words.h"

namespace machete::convert {

/// A k16 step of a lane's words of 8 bits to the four operand registers. decode_pair(word, half) makes two values of
/// two bytes, half 0 the lower ones.
template <class DecodePair>
CUTE_HOST_DEVICE void decode_halves(const Words<8>& words, int step, std::uint32_t (&a)[4], DecodePair decode_pair) {
  const int first = step / 2 * 4 + step % 2;
  CUTE_UNROLL
  for (int row = 0; row < 2; ++row) {
    const std::uint32_t word = words.word[first + row * 2];
    a[row] = decode_pair(word, 0);
    a[row + 2] = decode_pair(word, 1);
  }
}

/// Two bytes of a word, half 0 the lower ones, as signed integers of 16 bits.
CUTE_HOST_DEVICE std::uint32_t sign_extend_bytes(std::uint32_t word, int half) {
#if defined(__CUDA_ARCH__)
  // PRMT spreads a byte's sign over where the selector's nibble has its highest bit set.
  std::uint32_t result;
  asm("prmt.b32 %0, %1, 0, %2;" : "=r"(result) : "r"(word), "r"(half == 0 ? 0x9180u : 0xB3A2u));
  return result;
#else
  const auto extended = [&](int byte) {
    return std::uint32_t{static_cast<std::uint16_t>(static_cast<std::int8_t>(word >> (8 * byte)))};
  };
  return extended(2 * half) | extended(2 * half + 1) << 16;
#endif
}

/// The bits of kBits in two bytes of a word, moved to the left: with a byte's sign all over what is before it, bit 15
/// has it wherever the other bits come to lie.
template <int kLeft, std::uint32_t kBits>
CUTE_HOST_DEVICE std::uint32_t move_signed_bytes(std::uint32_t word, int half) {
  return sign_extend_bytes(word, half) << kLeft & kBits;
}

}  // namespace machete::convert
