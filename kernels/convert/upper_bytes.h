#pragma once

#include <cstdint>

#include "kernels/convert/pairs.h"
#include "kernels/convert/words.h"

namespace machete::convert {

/// A k16 step of a lane's words of 8 bits to the four operand registers. decode_pair makes two values of two codes,
/// each in the upper byte of a half, where a floating-point code's sign is in its place.
template <class DecodePair>
CUTE_HOST_DEVICE void decode_upper_bytes(const Words<8>& words, int step, std::uint32_t (&a)[4],
                                         DecodePair decode_pair) {
  const int first = step / 2 * 4 + step % 2;
  CUTE_UNROLL
  for (int row = 0; row < 2; ++row) {
    const std::uint32_t word = words.word[first + row * 2];
    a[row] = decode_pair(permute_bytes<0x1404>(word, 0));
    a[row + 2] = decode_pair(permute_bytes<0x3424>(word, 0));
  }
}

}  // namespace machete::convert
