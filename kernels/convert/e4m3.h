#pragma once

/// e4m3: 8 bits of floating point, stored as they are. Prepack lets no NaN code come here.

#include <cstdint>

#include "kernels/convert/words.h"

#if defined(__CUDACC__)
#include "kernels/convert/pairs.cuh"
#endif

namespace machete::convert {

struct E4m3 : WithoutZeroPoints {
  static constexpr int kBits = 8;

#if defined(__CUDACC__)
  /// A k16 step of a lane's words (kernels/layout) to the four operand registers, exactly, two values each.
  ///
  /// A code's exponent and mantissa are moved to where the wider type has its own; the difference of the exponents'
  /// biases is a power of two, which one multiplication adds, for subnormal codes as well.
  template <class Element>
  __device__ static void decode(const Words<8>& words, int step, Zeros<Element>, std::uint32_t (&a)[4]) {
    const int first = step / 2 * 4 + step % 2;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const std::uint32_t high = __byte_perm(words.word[first + i % 2 * 2], 0, i < 2 ? 0x1404 : 0x3424);  // bytes << 8
      if constexpr (kIsBf16<Element>) {
        a[i] = multiply<Element>(mask_or<0x80008000u>(high, high >> 4 & 0x07F007F0u), 0x7B807B80u);  // 2^120
      } else {
        a[i] = multiply<Element>(mask_or<0x80008000u>(high, high >> 1 & 0x3F803F80u), 0x5C005C00u);  // 2^8
      }
    }
  }
#endif
};

}  // namespace machete::convert
