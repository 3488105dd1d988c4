#pragma once

#include <cute/config.hpp>

namespace machete::epilogue {

/// Where 16 bytes, eight rows of a token, lie in a tile of 128 bytes a token: its low bits permute them against bank
/// conflicts, as TMA does where it swizzles 128 bytes.
CUTE_HOST_DEVICE constexpr int place_of(int token, int eight) { return token * 8 + (eight ^ token % 8); }

/// Which rows of W and which tokens the elements of a lane's fragment are: kSteps steps of 16 tokens, of each of its
/// atoms (64 rows a warpgroup) in turn. Element f = token of a pair + 2 (half of the strip) + 4 (octet of tokens) +
/// 8 (step).
///
/// Visitors find it in args.epi_tile; their epi_n is the fragment. end_loop comes between two fragments.
template <int kAtoms_, int kAtomRows_, int kSteps_>
struct Lane {
  static constexpr int kAtoms = kAtoms_;
  static constexpr int kAtomRows = kAtomRows_;  // between the rows of an atom and the next
  static constexpr int kSteps = kSteps_;
  static constexpr int kFragment = 8 * kSteps;
  static constexpr int kStepTokens = 16;
  static constexpr int kTokens = kStepTokens * kSteps / kAtoms;  // of a fragment
  static_assert(kSteps % kAtoms == 0);

  int row;    // packed, of element 0
  int token;  // of element 0 of fragment 0
  int m;
  int n;        // rows of W
  bool swiglu;  // eight rows of gate and of up alternate

  CUTE_HOST_DEVICE static constexpr int half(int f) { return f / 2 % 2; }
  CUTE_HOST_DEVICE static constexpr int atom(int f) { return f / 8 % kAtoms; }
  CUTE_HOST_DEVICE int token_of(int f, int fragment) const {
    return token + fragment * kTokens + f / 8 / kAtoms * kStepTokens + f / 4 % 2 * 8 + f % 2;
  }

  /// The row of W as the checkpoint has it, or -1.
  CUTE_HOST_DEVICE int channel(int half, int atom) const {
    const int packed = row + atom * kAtomRows + half * 8;
    if (!swiglu) return packed < n ? packed : -1;
    const int pair = packed / 16 * 8 + packed % 8;
    return pair < n / 2 ? pair + half * (n / 2) : -1;
  }
};

}  // namespace machete::epilogue
