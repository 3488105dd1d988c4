#pragma once

#include <cstdint>
#include <cute/config.hpp>

#include "machete/types.h"

namespace machete::convert {

/// A lane's share of 16 rows x 64 k in the order of kernels/layout: of 4 bits, word `step` is a k16 step; of 8, word
/// step / 2 * 4 + step % 2 is the row of a0 and a2, the one two further on the row 8 below. In the order for 8-bit
/// activations, of 4 bits words 2 step and 2 step + 1 are a k32 step, of 8 the four from 4 step on.
template <int kBits>
struct Words {
  std::uint32_t word[kBits];

  CUTE_HOST_DEVICE static Words load(const std::uint8_t* tile, int lane) {
    struct alignas(16) Part {
      std::uint32_t word[4];
    };
    Words words;
    CUTE_UNROLL
    for (int i = 0; i < kBits / 4; ++i) {
      const Part part = reinterpret_cast<const Part*>(tile)[i * 32 + lane];
      CUTE_UNROLL
      for (int j = 0; j < 4; ++j) words.word[i * 4 + j] = part.word[j];
    }
    return words;
  }
};

/// Of types whose zero point is implied.
struct WithoutZeroPoints {
  static constexpr bool kZeroPoints = false;
  template <class Element>
  struct Zeros {};
  // What decoded values are multiples of, with activations of a type.
  template <class Activation>
  static constexpr float kCodeUnit = 1;
};

/// Of those whose codes are what an 8-bit MMA multiplies.
struct OperandBytes : WithoutZeroPoints {
  /// A k32 step of a lane's words is the four operand registers of an 8-bit MMA.
  template <class Activation>
  CUTE_HOST_DEVICE static void decode_bytes(const Words<8>& words, int step, std::uint32_t (&a)[4]) {
    CUTE_UNROLL
    for (int j = 0; j < 4; ++j) a[j] = words.word[4 * step + j];
  }
};

}  // namespace machete::convert
