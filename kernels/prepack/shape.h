#pragma once

#include <cstdint>

namespace machete::packing {

/// The sizes of a packed weight, derived from those of the canonical one. Padding happens here and nowhere else; padded
/// weights are zero bytes, and beyond N so are their scales.
struct Shape {
  std::int64_t n = 0;
  std::int64_t k = 0;
  std::int64_t group_size = 0;  // as the checkpoint has it: a multiple of 16, or -1
  std::int64_t n_padded = 0;    // to 64, the rows of one wgmma
  std::int64_t k_padded = 0;    // to 64, one tile of 4 bits or two of 8
  // Divides 64 or is a multiple of it, so that no k16 step and no tile is split. With 16-bit activations at most
  // kRepeatK where groups divide so: their scales are repeated.
  std::int64_t packed_group_size = 0;
  std::int64_t packed_groups = 0;
  int bits = 4;              // of a weight
  int activation_bits = 16;  // whose MMA the order serves
  // The weight is [gate; up], and its rows are packed so that an MMA's lane holds both of a pair: strips of eight gate
  // rows and the eight up rows that go with them.
  bool swiglu = false;

  constexpr std::int64_t groups() const { return group_size > 0 ? (k + group_size - 1) / group_size : 1; }
  constexpr std::int64_t source_group(std::int64_t packed_group) const {
    return group_size > 0 ? packed_group * packed_group_size / group_size : 0;
  }
  /// Where row n is packed, and what row is packed at p: N or more for padding.
  constexpr std::int64_t packed_row(std::int64_t row) const {
    if (!swiglu) return row;
    const std::int64_t pair = row % (n / 2);
    return pair / 8 * 16 + pair % 8 + (row < n / 2 ? 0 : 8);
  }
  constexpr std::int64_t source_row(std::int64_t p) const {
    if (!swiglu) return p;
    const std::int64_t pair = p / 16 * 8 + p % 8;
    return pair >= n / 2 ? n : pair + (p % 16 < 8 ? 0 : n / 2);
  }
  constexpr std::int64_t packed_rows() const { return swiglu ? (n / 2 + 7) / 8 * 16 : n; }  // without padding to 64
  constexpr std::int64_t row_bytes() const { return (k * bits + 7) / 8; }                   // of the canonical form
  constexpr std::int64_t weight_bytes() const { return n_padded * k_padded * bits / 8; }
  constexpr std::int64_t scale_count() const { return n_padded * packed_groups; }
};

/// How many k share a packed scale where groups are larger, of 16-bit activations. One scale a row would be asked for
/// by every warp at once: 4% at M = 1 (docs/design-notes.md); repeating it costs 3% of the weight's bytes.
inline constexpr std::int64_t kRepeatK = 128;

/// Sizes must be positive and at most 2^31; group_size -1 or a positive multiple of 16 (checked by the API).
constexpr Shape shape_of(std::int64_t n, std::int64_t k, std::int64_t group_size, int bits = 4, bool swiglu = false,
                         int activation_bits = 16) {
  Shape s;
  s.activation_bits = activation_bits;
  s.bits = bits;
  s.swiglu = swiglu;
  s.n = n;
  s.k = k;
  s.group_size = group_size;
  s.n_padded = (s.packed_rows() + 63) / 64 * 64;
  s.k_padded = (k + 63) / 64 * 64;
  const bool one = group_size < 0 || group_size >= s.k_padded;
  if (activation_bits == 16 && s.k_padded > kRepeatK && (one || group_size % kRepeatK == 0)) {
    s.packed_group_size = kRepeatK;
  } else if (one) {
    s.packed_group_size = s.k_padded;
  } else if (group_size % 64 == 0) {
    s.packed_group_size = group_size;
  } else {
    s.packed_group_size = group_size % 32 == 0 ? 32 : 16;  // gcd(group_size, 64)
  }
  s.packed_groups = (s.k_padded + s.packed_group_size - 1) / s.packed_group_size;
  return s;
}

}  // namespace machete::packing
