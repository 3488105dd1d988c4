// How the turns family shares tiles: every pair of classes is one CTA's, and the order of addition is always the same.
#include <gtest/gtest.h>

#include <vector>

#include "kernels/turns/order.h"

namespace machete::turns {
namespace {

constexpr int kSms = 132;

TEST(Turns, EveryPairIsOneCtasAndWhatIsGivenIsTaken) {
  for (int tiles = 1; tiles < 1100; ++tiles) {
    const int share = share_of(tiles, kSms);
    const int ctas = ctas_of(tiles, share);
    ASSERT_LE(ctas, kSms);
    std::vector<int> done(static_cast<std::size_t>(tiles) * kPairs, -1);  // by which CTA
    std::vector<int> gives(static_cast<std::size_t>(ctas), -1);           // a part of which tile
    for (int cta = 0; cta < ctas; ++cta) {
      int parts = 0;
      for (Walk walk(tiles, share, cta); !walk.done(); walk.advance()) {
        const Part part = walk.part();
        ASSERT_LT(part.first, part.end);
        for (int pair = part.first; pair < part.end; ++pair) {
          int& by = done[static_cast<std::size_t>(part.tile * kPairs + pair)];
          ASSERT_EQ(by, -1) << "tile " << part.tile << " pair " << pair;
          by = cta;
        }
        if (!part.ends_tile()) {
          ASSERT_EQ(gives[static_cast<std::size_t>(cta)], -1) << "a CTA has room for one part";
          gives[static_cast<std::size_t>(cta)] = part.tile;
          ASSERT_TRUE(!walk.given_early() || parts == 0) << "what is given comes first";
          ASSERT_TRUE(part.first == 0 || part.end - part.first == 1) << "sums of several pairs start with the first";
        }
        ++parts;
      }
      ASSERT_TRUE(parts == 1 || share > 2);
    }
    for (int cta = 0; cta < ctas; ++cta) {
      for (Walk walk(tiles, share, cta); !walk.done(); walk.advance()) {
        const Part part = walk.part();
        if (part.first == 0 || !part.ends_tile()) continue;
        const int first = walk.first_giver(part);
        ASSERT_EQ(first, done[static_cast<std::size_t>(part.tile * kPairs)]);
        ASSERT_LT(first, cta);
        ASSERT_TRUE(!walk.given_early() || first == cta - 1);
        for (int giver = first; giver < cta; ++giver) ASSERT_EQ(gives[static_cast<std::size_t>(giver)], part.tile);
        ASSERT_TRUE(walk.given_early() || part.end - part.first <= 2) << "held until what others give is there";
      }
    }
    for (const int by : done) ASSERT_NE(by, -1);
  }
}

TEST(Turns, EveryTurnIsOfOneClass) {
  for (int turns = 1; turns < 40; ++turns) {
    int all = 0;
    for (int index = 0; index < kClasses; ++index) all += turns_of_class(turns, index);
    EXPECT_EQ(all, turns);
    EXPECT_EQ(turns_of_class(turns, 0), (turns + 7) / 8);
  }
}

}  // namespace
}  // namespace machete::turns
