#pragma once

#include <array>
#include <cstdint>
#include <limits>

#include "machete/types.h"

namespace machete::convert {

/// Scales that are folded into the decode are less than this: the largest factor that they become is 2^109 times as
/// much.
inline constexpr float kFoldedScales = 0x1p19f;

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

/// The codes of a floating-point type that are no numbers.
enum class Specials {
  kNone,
  kNan,   // all ones, but for the sign, is NaN
  kIeee,  // the largest exponent has infinity and NaN
};

template <int kExponentBits, int kMantissaBits, Specials kSpecials>
constexpr auto make_values() {
  constexpr int kSign = 1 << (kExponentBits + kMantissaBits);
  constexpr int kInfinity = kSign - (1 << kMantissaBits);
  std::array<float, 2 * kSign> values{};
  for (int code = 0; code < 2 * kSign; ++code) {
    const int magnitude = code % kSign;
    float& value = values[static_cast<std::size_t>(code)];
    value = floating_value(code, kExponentBits, kMantissaBits);
    if ((kSpecials == Specials::kNan && magnitude == kSign - 1) ||
        (kSpecials == Specials::kIeee && magnitude > kInfinity)) {
      value = std::numeric_limits<float>::quiet_NaN();
    } else if (kSpecials == Specials::kIeee && magnitude == kInfinity) {
      value = code < kSign ? std::numeric_limits<float>::infinity() : -std::numeric_limits<float>::infinity();
    }
  }
  return values;
}
template <int kExponentBits, int kMantissaBits, Specials kSpecials>
inline constexpr auto kValues = make_values<kExponentBits, kMantissaBits, kSpecials>();

/// OCP's E4M3, of activations and scales too: no infinities, up to 448.
inline constexpr const auto& kE4m3Values = kValues<4, 3, Specials::kNan>;

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
  int exponent_bits = 0;          // of a floating-point type, and
  int mantissa_bits = 0;

  constexpr int middle() const { return codes() / 2; }
  constexpr int codes() const { return 1 << bits; }
  constexpr bool is_integer() const { return values == nullptr; }

  constexpr float value(int u) const { return is_integer() ? static_cast<float>(u) : values[u]; }
  constexpr bool is_finite(int u) const { return value(u) - value(u) == 0; }
  constexpr float implied_zero() const { return is_integer() ? static_cast<float>(middle()) : 0; }

  /// Of a floating-point type, the largest number, and the exponent of the smallest that is normal.
  constexpr float largest() const {
    int u = middle() - 1;
    while (!is_finite(u)) --u;
    return value(u);
  }
  constexpr int smallest_exponent() const { return 2 - (1 << (exponent_bits - 1)); }

  /// Canonical code to u, and back; stored code to u, and back.
  constexpr std::uint8_t counted(std::uint8_t q) const { return flipped(q, is_signed); }
  constexpr std::uint8_t canonical(std::uint8_t u) const { return flipped(u, is_signed); }
  constexpr std::uint8_t stored(std::uint8_t u) const { return flipped(u, is_integer()); }

  /// Whether kernels that scale weights ahead of the MMA fold the scale into the decode (kernels/convert/scaled.h).
  /// Not with zero points, whose products with scales have too many bits, nor e2m1's, whose scales are any power of
  /// two.
  constexpr bool folds_scales(DataType a_type) const {
    return a_type == DataType::kBf16 && !has_zero_points && (is_integer() || bits == 8);
  }

  /// Whether the bits of stored codes are braided (kernels/convert/braid.h).
  constexpr bool braided(int activation_bits) const { return !is_integer() && bits == 4 && activation_bits == 16; }

 private:
  constexpr std::uint8_t flipped(std::uint8_t code, bool flip) const {
    return static_cast<std::uint8_t>(flip ? code ^ middle() : code);
  }
};

enum class Integers { kPlain, kSigned, kZeros };
constexpr Coding integer(int bits, Integers kind) {
  return {bits, kind == Integers::kSigned, kind == Integers::kZeros, nullptr, 0, 0};
}
template <int kExponentBits, int kMantissaBits, Specials kSpecials>
constexpr Coding floating() {
  return {1 + kExponentBits + kMantissaBits,
          false,
          false,
          kValues<kExponentBits, kMantissaBits, kSpecials>.data(),
          kExponentBits,
          kMantissaBits};
}

/// A line of the manifest.
struct Type {
  WeightType type;
  const char* name;
  Coding coding;
  WeightType runs_as;  // whose kernels it runs on
  DataType met[2];     // the activations of 8 bits that it meets; kF16, which all meet, fills the rest

  constexpr bool meets(DataType a_type) const { return a_type == met[0] || a_type == met[1]; }
};
inline constexpr Type kTypes[] = {
#include "weight_types.inc"
};

/// Null for a number that is no type's.
constexpr const Type* find(WeightType type) {
  for (const Type& known : kTypes) {
    if (known.type == type) return &known;
  }
  return nullptr;
}
constexpr Coding coding_of(WeightType type) {
  const Type* known = find(type);
  return known != nullptr ? known->coding : Coding{};
}

}  // namespace machete::convert
