#pragma once

#include <array>
#include <cstdint>
#include <limits>

#include "machete/types.h"

namespace machete::convert {

/// The value of a floating-point code: a sign, exponent bits above a bias, mantissa bits; subnormals as in IEEE.
constexpr float floating_value(int code, int exponent_bits, int mantissa_bits) {
  const int bias = (1 << (exponent_bits - 1)) - 1;
  const int mantissa = code & ((1 << mantissa_bits) - 1);
  const int exponent = code >> mantissa_bits & ((1 << exponent_bits) - 1);
  float value = static_cast<float>(exponent == 0 ? mantissa : mantissa + (1 << mantissa_bits));
  for (int e = (exponent == 0 ? 1 : exponent) - bias - mantissa_bits; e != 0; e += e < 0 ? 1 : -1) {
    value *= e < 0 ? 0.5f : 2.0f;
  }
  return code >> (exponent_bits + mantissa_bits) & 1 ? -value : value;
}

/// OCP's E4M3: no infinities, 0x7f and 0xff are NaN, up to 448.
constexpr std::array<float, 256> make_e4m3() {
  std::array<float, 256> values{};
  for (int code = 0; code < 256; ++code) {
    values[static_cast<std::size_t>(code)] =
        (code & 0x7f) == 0x7f ? std::numeric_limits<float>::quiet_NaN() : floating_value(code, 4, 3);
  }
  return values;
}
inline constexpr auto kE4m3Values = make_e4m3();

/// OCP's E2M1: 0, 0.5, 1, 1.5, 2, 3, 4, 6 and their negatives.
constexpr std::array<float, 16> make_e2m1() {
  std::array<float, 16> values{};
  for (int code = 0; code < 16; ++code) values[static_cast<std::size_t>(code)] = floating_value(code, 2, 1);
  return values;
}
inline constexpr auto kE2m1Values = make_e2m1();

/// What the codes of a weight type mean: value = (v(u) - zero) * scale. For integer types u is the code counted from
/// the lowest, v(u) = u, and types without zero points have theirs in the middle; for floating-point types u is the
/// code, v(u) its value, and zero is 0.
///
/// Packed, every integer type of a width is stored alike, as the two's complement of u - middle, so that integer MMAs
/// read the codes as they are; floating-point codes are stored as they are. Zero bytes are zero weights in both (of
/// types without zero points), which is what padding needs.
struct Coding {
  int bits = 0;
  bool is_signed = false;  // canonical codes are two's complement, -8...7 instead of 0...15
  bool has_zero_points = false;
  const float* values = nullptr;  // [codes()], of a floating-point type

  constexpr int middle() const { return 1 << (bits - 1); }
  constexpr int codes() const { return 1 << bits; }
  constexpr bool is_integer() const { return values == nullptr; }

  constexpr float value(int u) const { return is_integer() ? static_cast<float>(u) : values[u]; }
  constexpr float implied_zero() const { return is_integer() ? static_cast<float>(middle()) : 0; }

  /// Canonical code to u, and back; stored code to u, and back.
  constexpr std::uint8_t counted(std::uint8_t q) const { return flipped(q, is_signed); }
  constexpr std::uint8_t canonical(std::uint8_t u) const { return flipped(u, is_signed); }
  constexpr std::uint8_t stored(std::uint8_t u) const { return flipped(u, is_integer()); }

 private:
  constexpr std::uint8_t flipped(std::uint8_t code, bool flip) const {
    return static_cast<std::uint8_t>(flip ? code ^ middle() : code);
  }
};

constexpr Coding coding_of(WeightType type) {
  switch (type) {
    case WeightType::kU4b8:
      return {4, false, false, nullptr};
    case WeightType::kU4:
      return {4, false, true, nullptr};
    case WeightType::kU8b128:
      return {8, false, false, nullptr};
    case WeightType::kU8:
      return {8, false, true, nullptr};
    case WeightType::kS4:
      return {4, true, false, nullptr};
    case WeightType::kS8:
      return {8, true, false, nullptr};
    case WeightType::kE4m3:
      return {8, false, false, kE4m3Values.data()};
    case WeightType::kE2m1:
      return {4, false, false, kE2m1Values.data()};
  }
  return {};
}

}  // namespace machete::convert
