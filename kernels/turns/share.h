#pragma once

namespace machete::turns {

/// Pairs of classes (order.h), the parts of a tile that CTAs may share without changing a bit.
inline constexpr int kPairs = 4;

/// How many pairs a CTA takes, so that all take as many.
constexpr int share_of(int tiles, int sms) {
  return static_cast<int>((static_cast<long long>(tiles) * kPairs + sms - 1) / sms);
}

constexpr int ctas_of(int tiles, int share) {
  return static_cast<int>((static_cast<long long>(tiles) * kPairs + share - 1) / share);
}

/// Whether a tile may be more than one CTA's.
constexpr bool shares_tiles(int share) { return share % kPairs != 0; }

}  // namespace machete::turns
