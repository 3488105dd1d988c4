#pragma once

#include <cstdint>

#include "machete/types.h"

namespace machete::convert {

/// What the codes of a weight type mean: value = (u - zero) * scale, where u is the code counted from the lowest. Types
/// without zero points have theirs in the middle.
///
/// Packed, every type of a width is stored alike, as the two's complement of u - middle: zero bytes are the middle, so
/// that padding is zero weights, and integer MMAs read the codes as they are.
struct Coding {
  int bits;
  bool is_signed;  // canonical codes are two's complement, -8...7 instead of 0...15
  bool has_zero_points;

  constexpr int middle() const { return 1 << (bits - 1); }
  constexpr int codes() const { return 1 << bits; }

  /// Canonical code to u, and back; stored code to u, and back.
  constexpr std::uint8_t counted(std::uint8_t q) const { return flipped(q, is_signed); }
  constexpr std::uint8_t canonical(std::uint8_t u) const { return flipped(u, is_signed); }
  constexpr std::uint8_t stored(std::uint8_t u) const { return flipped(u, true); }

 private:
  constexpr std::uint8_t flipped(std::uint8_t code, bool flip) const {
    return static_cast<std::uint8_t>(flip ? code ^ middle() : code);
  }
};

constexpr Coding coding_of(WeightType type) {
  switch (type) {
    case WeightType::kU4b8:
      return {4, false, false};
    case WeightType::kU4:
      return {4, false, true};
    case WeightType::kU8b128:
      return {8, false, false};
    case WeightType::kU8:
      return {8, false, true};
    case WeightType::kS4:
      return {4, true, false};
    case WeightType::kS8:
      return {8, true, false};
  }
  return {};
}

}  // namespace machete::convert
