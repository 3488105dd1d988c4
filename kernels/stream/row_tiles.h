#pragma once

#include <cute/config.hpp>

namespace machete::stream {

/// How row tiles are shared out: every CTA has `shorter`, the first `longer` CTAs one more.
struct RowTiles {
  int ctas;
  int shorter;
  int longer;

  /// Over as few CTAs as share them evenly: an idle one would only delay the kernel behind it.
  static RowTiles share(int row_tiles, int sms) {
    const int passes = (row_tiles + sms - 1) / sms;
    const int ctas = (row_tiles + passes - 1) / passes;
    return {ctas, row_tiles / ctas, row_tiles % ctas};
  }

  CUTE_HOST_DEVICE int first(int cta) const { return cta * shorter + (cta < longer ? cta : longer); }
};

/// How many slots of a warp's weights are fetched before the activations are there. They delay those, a burst of a
/// whole ring by up to 5 us: a small linear and one of many tokens gain most from their activations, a large one of few
/// tokens from keeping memory busy.
inline int early_slots(const RowTiles& tiles, int tokens, int slots_of_k, int warps, int slots_of_ring) {
  const int row_tiles = tiles.shorter + (tiles.longer > 0 ? 1 : 0);
  const int early = tokens > 16 || row_tiles * slots_of_k <= 2 * warps ? 1 : 2;
  return early < slots_of_ring ? early : slots_of_ring;
}

/// What a warp works through: every kWarps-th turn of slots of its CTA's row tiles, along K, then the next row tile.
template <class Config>
struct SlotCursor {
  int row_tile;
  int slot;  // of K, of which there are a multiple of kTurnSlots

  CUTE_HOST_DEVICE SlotCursor(int first_row_tile, int warp, int slots_of_k)
      : row_tile(first_row_tile), slot(warp * Config::kTurnSlots) {
    wrap(slots_of_k);
  }

  CUTE_HOST_DEVICE bool last_of_turn() const { return slot % Config::kTurnSlots == Config::kTurnSlots - 1; }

  CUTE_HOST_DEVICE void advance(int slots_of_k) {
    slot += last_of_turn() ? (Config::kWarps - 1) * Config::kTurnSlots + 1 : 1;
    wrap(slots_of_k);
  }

 private:
  CUTE_HOST_DEVICE void wrap(int slots_of_k) {
    CUTE_NO_UNROLL
    while (slot >= slots_of_k) {
      slot -= slots_of_k;
      ++row_tile;
    }
  }
};

}  // namespace machete::stream
