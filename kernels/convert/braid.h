#pragma once

#include <cstdint>

namespace machete::convert {

/// The order of bits in a word of eight e2m1 codes for 16-bit activations.
///
/// bf16 has a code's sign s in bit 15, its exponent and mantissa e f m in bits 8...6. In a braided word the bits of a
/// pair of codes, the halves of an operand register, lie so that one rotation brings them there. Three pairs fit into a
/// word like that, and no four: the last one's e takes another rotation.
///
///        bit of a half: 15  14  13  12 | 11  10   9   8 |  7   6   5   4 |  3   2   1   0
///                       s0  e2  f2  m2 | s1  e3  s3  e0 | f0  m0  s2  e1 | f1  m1  f3  m3
///
/// of either code of a pair, but that e2 f2 m2 and e3 lie in the half of the other. Always inline, since the CPU
/// backend compiles it for several instruction sets.
struct Braid {
  static constexpr std::uint32_t kSigns = 0x80008000u;      // of bf16
  static constexpr std::uint32_t kAmounts = 0x01C001C0u;    // e f m
  static constexpr std::uint32_t kExponents = 0x01000100u;  // e
  static constexpr int kPairs = 4;

  /// A pair in its places; between them may be other bits of the word.
  [[gnu::always_inline]] static constexpr std::uint32_t unravel(std::uint32_t word, int pair) {
    const std::uint32_t rotated = rotate_left(word, rotation(pair));
    if (pair < kPairs - 1) return rotated;
    return (rotated & ~kExponents) | (rotate_left(word, kLastRotation) & kExponents);
  }

  /// From a word of nibbles (kernels/layout), and back.
  [[gnu::always_inline]] static constexpr std::uint32_t from_nibbles(std::uint32_t nibbles) {
    std::uint32_t word = 0;
    for (int pair = 0; pair < kPairs; ++pair) {
      const std::uint32_t codes = nibbles >> (4 * pair);
      const std::uint32_t placed = (codes & 0x00080008u) << 12 | (codes & 0x00070007u) << 6;
      const std::uint32_t apart = pair == kPairs - 1 ? placed & kExponents : 0;
      word |= rotate_left(placed ^ apart, 32 - rotation(pair)) | rotate_left(apart, 32 - kLastRotation);
    }
    return word;
  }
  [[gnu::always_inline]] static constexpr std::uint32_t to_nibbles(std::uint32_t word) {
    std::uint32_t nibbles = 0;
    for (int pair = 0; pair < kPairs; ++pair) {
      const std::uint32_t placed = unravel(word, pair);
      nibbles |= ((placed & kSigns) >> 12 | (placed & kAmounts) >> 6) << (4 * pair);
    }
    return nibbles;
  }

 private:
  static constexpr int kLastRotation = 14;  // of the last pair's e
  [[gnu::always_inline]] static constexpr int rotation(int pair) {
    return pair == 0 ? 0 : pair == 1 ? 4 : pair == 2 ? 10 : 6;
  }
  [[gnu::always_inline]] static constexpr std::uint32_t rotate_left(std::uint32_t word, int by) {
    return word << (by & 31) | word >> (-by & 31);
  }
};

}  // namespace machete::convert
