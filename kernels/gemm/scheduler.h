#pragma once

#include <algorithm>
#include <cute/config.hpp>

namespace machete::gemm {

struct WorkTile {
  int n;  // in tiles
  int m;
};

/// Numbers the tiles of D. Tokens run fastest, so that CTAs working at the same time share weights, in panels of kPanel
/// token tiles, whose activations stay in L2 while all weights pass by.
struct Raster {
  static constexpr int kPanel = 16;

  int n_tiles;
  int m_tiles;

  CUTE_HOST_DEVICE int size() const { return n_tiles * m_tiles; }

  CUTE_HOST_DEVICE WorkTile operator()(int index) const {
    const int panel = index / (kPanel * n_tiles);
    const int first = panel * kPanel;
    const int width = m_tiles - first < kPanel ? m_tiles - first : kPanel;
    const int local = index - first * n_tiles;
    return {local / width, first + local % width};
  }
};

/// Who computes what. The first `shared` tiles are stream-K: their steps of K, one tile's after the other's, are cut
/// into equal parts, one a CTA. The other tiles go out whole, one to each CTA in turn.
///
///   CTA 0 [#######|###      CTA 1 ####|####..    the steps of a shared tile between two bars; a part may end anywhere
///
/// A CTA walks its part backwards: what belongs to the tile that the next CTA ends is done first and given away; the
/// tile that it ends itself comes last, when what the CTAs before it had to give has long been there. So a CTA waits
/// only for CTAs of lower numbers, which the hardware starts first: whatever else runs on the card, none waits for
/// ever.
struct Shares {
  int tiles;
  int shared;  // stream-K tiles, the first ones
  int steps;   // of K, in a tile
  int ctas;
  int part;   // of the shared steps, a CTA's
  int extra;  // CTAs, the first ones (with split: of each tile), have one more
  int split;  // CTAs that have a shared tile to themselves; 0: parts are cut wherever they end

  struct Part {
    int begin;  // of the shared steps
    int end;
  };

  CUTE_HOST_DEVICE Part part_of(int cta) const {
    const int tile = split > 0 ? cta / split : 0;
    const int rank = cta - tile * split;
    const int begin = tile * steps + rank * part + (rank < extra ? rank : extra);
    return {begin, begin + part + (rank < extra ? 1 : 0)};
  }
};

/// As many shared tiles as leave every CTA the same work: one to two a CTA, or all where there are fewer than that.
/// Where all are shared and it makes hardly a CTA longer, each is split evenly: CTAs whose parts begin at the same k
/// read the same activations at the same time.
inline Shares shares_of(int tiles, int steps, int sms, bool stream_k) {
  const int shared = tiles < sms ? tiles : sms + tiles % sms;
  const long long all = static_cast<long long>(shared) * steps;
  if (!stream_k || tiles % sms == 0 || all > 1 << 30) return {tiles, 0, steps, tiles < sms ? tiles : sms, 0, 0, 0};
  const long long most = (all + sms - 1) / sms;  // steps of the busiest CTA
  const int split = std::min(sms / tiles, steps);
  if (split > 1 && (steps + split - 1) / split <= most + most / 16) {
    return {tiles, tiles, steps, tiles * split, steps / split, steps % split, split};
  }
  // Of fewer tiles than SMs, no more CTAs take part than that needs.
  const int ctas = tiles < sms ? static_cast<int>((all + most - 1) / most) : sms;
  return {tiles, shared, steps, ctas, static_cast<int>(all / ctas), static_cast<int>(all % ctas), 0};
}

/// The tiles of one CTA and its steps of K in them, one after the other.
class Walk {
 public:
  CUTE_HOST_DEVICE Walk(const Shares& shares, int cta) : shares_(shares), cta_(cta) {
    const Shares::Part part = shares.part_of(cta);
    low_ = part.begin;
    high_ = part.end;
    next_ = shares.shared + cta;
    advance();
  }

  CUTE_HOST_DEVICE bool done() const { return tile_ < 0; }
  CUTE_HOST_DEVICE int tile() const { return tile_; }
  CUTE_HOST_DEVICE int begin() const { return begin_; }  // steps of K
  CUTE_HOST_DEVICE int end() const { return end_; }

  /// Whether this CTA ends the tile: then it adds what CTAs [first_giver(), cta) have given and stores the result.
  /// If not, it gives.
  CUTE_HOST_DEVICE bool ends() const { return end_ == shares_.steps; }
  CUTE_HOST_DEVICE int first_giver() const {
    if (begin_ == 0) return cta_;
    if (shares_.split > 0) return cta_ - cta_ % shares_.split;
    int giver = cta_ - 1;
    while (shares_.part_of(giver).begin > tile_ * shares_.steps) --giver;
    return giver;
  }

  CUTE_HOST_DEVICE void advance() {
    if (high_ > low_) {
      tile_ = uniform((high_ - 1) / shares_.steps);
      const int first = tile_ * shares_.steps;
      begin_ = low_ > first ? low_ - first : 0;
      end_ = high_ - first;
      high_ = first + begin_;
    } else {
      tile_ = next_ < shares_.tiles ? next_ : -1;
      begin_ = 0;
      end_ = shares_.steps;
      next_ += shares_.ctas;
    }
  }

 private:
  // Tells the compiler what it does not see behind a division: that all lanes have the same value. Without it the main
  // loop's addresses leave the uniform registers.
  CUTE_HOST_DEVICE static int uniform(int value) {
#if defined(__CUDA_ARCH__)
    return __shfl_sync(~0u, value, 0);
#else
    return value;
#endif
  }

  const Shares& shares_;
  int cta_;
  int low_;   // where the part begins
  int high_;  // where what is left of the part ends
  int next_;  // whole tile
  int tile_;
  int begin_;
  int end_;
};

}  // namespace machete::gemm
