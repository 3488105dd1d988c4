// How kernels for few tokens share out work and memory: the same functions run on the device.
#include <gtest/gtest.h>

#include <map>
#include <utility>

#include "kernels/convert/u4b8.h"
#include "kernels/stream/ring_layout.h"
#include "kernels/stream/row_tiles.h"

namespace machete::stream {
namespace {

template <int kWarps_, int kTurnSlots_>
struct Sizes {
  using Converter = convert::U4b8;
  static constexpr int kWarps = kWarps_;
  static constexpr int kTurnSlots = kTurnSlots_;
  static constexpr int kStrips = 3;
  static constexpr int kTokens = 8;
  static constexpr int kWeightBytes = kStrips * 2 * layout::kTileBytes;
  static constexpr int kActivationBytes = 2 * kTokens * layout::kTileK * 2;
};

TEST(RowTiles, AreSharedEvenlyAndLeaveNoCtaIdle) {
  for (const int sms : {1, 7, 132}) {
    for (const int row_tiles : {1, 2, 131, 132, 133, 140, 263, 264, 265, 896, 2000}) {
      const RowTiles tiles = RowTiles::share(row_tiles, sms);
      EXPECT_LE(tiles.ctas, sms);
      EXPECT_EQ(tiles.first(0), 0);
      EXPECT_EQ(tiles.first(tiles.ctas), row_tiles);
      const int most = (row_tiles + sms - 1) / sms;
      for (int cta = 0; cta < tiles.ctas; ++cta) {
        const int own = tiles.first(cta + 1) - tiles.first(cta);
        EXPECT_GE(own, 1);
        EXPECT_LE(own, most);
        EXPECT_GE(own, tiles.shorter);
      }
    }
  }
}

TEST(RowTiles, FewSlotsAreFetchedEarlyAndNeverMoreThanTheRingHolds) {
  EXPECT_EQ(early_slots(RowTiles::share(128, 132), 2, 16, 8, 6), 1);   // 4096 x 4096 in slots of 256 k
  EXPECT_EQ(early_slots(RowTiles::share(128, 132), 2, 56, 8, 6), 2);   // 4096 x 14336
  EXPECT_EQ(early_slots(RowTiles::share(896, 132), 8, 32, 16, 6), 2);  // 28672 x 4096 in slots of 128 k
  EXPECT_EQ(early_slots(RowTiles::share(896, 132), 32, 32, 8, 6), 1);
  EXPECT_EQ(early_slots(RowTiles::share(896, 132), 8, 32, 16, 1), 1);
}

// Warps must visit every slot of a CTA's row tiles exactly once, in turns of kTurnSlots, and the turns must fall to the
// warps in order, from one row tile on to the next: kernels/batch adds up in that order.
template <class Config>
void walk(int slots_of_k) {
  constexpr int kFirst = 5;
  constexpr int kEnd = 9;
  std::map<std::pair<int, int>, int> warp_of;  // (row tile, slot)
  for (int warp = 0; warp < Config::kWarps; ++warp) {
    int visited = 0;
    for (SlotCursor<Config> cursor(kFirst, warp, slots_of_k); cursor.row_tile < kEnd; cursor.advance(slots_of_k)) {
      const bool fresh = warp_of.emplace(std::make_pair(cursor.row_tile, cursor.slot), warp).second;
      ASSERT_TRUE(fresh) << "slot " << cursor.slot << " of row tile " << cursor.row_tile << " is visited twice";
      EXPECT_EQ(cursor.last_of_turn(), ++visited % Config::kTurnSlots == 0);
    }
  }
  ASSERT_EQ(warp_of.size(), static_cast<std::size_t>((kEnd - kFirst) * slots_of_k));
  int slots = 0;
  for (const auto& [slot, warp] : warp_of) EXPECT_EQ(warp, slots++ / Config::kTurnSlots % Config::kWarps);
}

TEST(SlotCursor, VisitsEverySlotOnce) {
  for (const int turns : {1, 2, 5, 8, 11, 16, 32, 86, 112}) {
    walk<Sizes<8, 1>>(turns);
    walk<Sizes<8, 2>>(turns * 2);
    walk<Sizes<16, 1>>(turns);
    walk<Sizes<16, 2>>(turns * 2);
  }
}

TEST(RingLayout, PartsFollowEachOtherWithinTheLimit) {
  using Config = Sizes<8, 1>;
  for (const int limit : {50000, 100000, 200000}) {
    for (const int groups : {1, 2, 8}) {
      const auto ring = RingLayout<Config>::make(limit, groups, 5);
      const int slots = Config::kWarps * ring.slots;
      ASSERT_GE(ring.slots, 1);
      EXPECT_LE(ring.slots, RingLayout<Config>::kMaxSlots);
      EXPECT_EQ(ring.weights, slots * Config::kActivationBytes);
      EXPECT_EQ(ring.scales, ring.weights + slots * Config::kWeightBytes);
      EXPECT_EQ(ring.full, ring.scales + slots * ring.scale_bytes);
      EXPECT_GE(ring.end, ring.full + slots * 8);
      EXPECT_LE(ring.end, limit + 16);
      EXPECT_EQ(ring.scale_bytes % 128, 0);
      // Weights, scales, and five of eight tokens.
      EXPECT_EQ(ring.transaction_bytes, Config::kWeightBytes + 3 * groups * 32 + Config::kActivationBytes * 5 / 8);
    }
  }
}

}  // namespace
}  // namespace machete::stream
