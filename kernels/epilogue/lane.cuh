#pragma once

#include <cute/config.hpp>

namespace machete::epilogue {

/// Which rows of W and which tokens the elements of a lane's fragment are: of one atom (64 rows a warpgroup) and one
/// chunk (16 tokens), element f = token of a pair + 2 (half of the strip) + 4 (octet of tokens).
///
/// Visitors find it in args.epi_tile; their epi_m is the atom, their epi_n the chunk.
template <int kAtoms_, int kAtomRows_>
struct Lane {
  static constexpr int kAtoms = kAtoms_;
  static constexpr int kAtomRows = kAtomRows_;  // between the rows of an atom and the next
  static constexpr int kFragment = 8;
  static constexpr int kChunkTokens = 16;

  int row;    // packed, of element 0 of atom 0
  int token;  // of element 0 of chunk 0
  int m;
  int n;        // rows of W
  bool swiglu;  // eight rows of gate and of up alternate

  CUTE_HOST_DEVICE static constexpr int half(int f) { return f / 2 % 2; }
  CUTE_HOST_DEVICE int token_of(int f, int chunk) const { return token + chunk * kChunkTokens + f / 4 * 8 + f % 2; }

  /// The row of W as the checkpoint has it, or -1.
  CUTE_HOST_DEVICE int channel(int half, int atom) const {
    const int packed = row + atom * kAtomRows + half * 8;
    if (!swiglu) return packed < n ? packed : -1;
    const int pair = packed / 16 * 8 + packed % 8;
    return pair < n / 2 ? pair + half * (n / 2) : -1;
  }
};

}  // namespace machete::epilogue
