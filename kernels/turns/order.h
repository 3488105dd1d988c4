#pragma once

#include <cute/config.hpp>

#include "kernels/turns/share.h"

namespace machete::turns {

/// The order in which the batch family adds: K in turns of 128, turn i of class i % 8, each class by itself; then
/// classes by pairs (0 and 1, ... 6 and 7), and the pairs one after the other.
inline constexpr int kClasses = 2 * kPairs;

/// How many turns are of a class.
CUTE_HOST_DEVICE constexpr int turns_of_class(int turns, int index) {
  return (turns - index + kClasses - 1) / kClasses;
}

/// A CTA's part of a tile: pairs [first, end).
struct Part {
  int tile;
  int first;
  int end;

  CUTE_HOST_DEVICE bool ends_tile() const { return end == kPairs; }
};

/// The parts of a CTA. The pairs of all tiles, one tile's after the other's, are cut into equal shares, a CTA each.
///
///   share 7:  CTA 0 [####|###     CTA 1 #|####|##     CTA 2 ##|####|#
///
/// Who ends a tile adds what the CTAs before have given, in order, and stores the result. A share of one or two pairs
/// lies in one tile. A larger one is walked backwards, as stream-K's (kernels/gemm/scheduler.h): what it gives comes
/// first, what it is given has long been there when it is needed, and comes from one CTA.
class Walk {
 public:
  CUTE_HOST_DEVICE Walk(int tiles, int share, int cta) : share_(share), low_(cta * share) {
    const int all = tiles * kPairs;
    high_ = low_ + share < all ? low_ + share : all;
  }

  CUTE_HOST_DEVICE bool done() const { return high_ <= low_; }
  CUTE_HOST_DEVICE Part part() const {
    const int tile = tile_of(high_);
    const int begin = tile * kPairs;
    return {tile, low_ > begin ? low_ - begin : 0, high_ - begin};
  }
  /// Where the part ends, in pairs of all tiles, and the tile that ends there or later.
  CUTE_HOST_DEVICE int end() const { return high_; }
  CUTE_HOST_DEVICE static int tile_of(int end) { return (end - 1) / kPairs; }
  CUTE_HOST_DEVICE void advance() {
    const Part part = this->part();
    high_ = part.tile * kPairs + part.first;
  }

  /// Whether what others give is there before the part begins.
  CUTE_HOST_DEVICE bool given_early() const { return share_ > 2; }
  CUTE_HOST_DEVICE int first_giver(const Part& part) const { return part.tile * kPairs / share_; }

 private:
  int share_;
  int low_;
  int high_;
};

}  // namespace machete::turns
