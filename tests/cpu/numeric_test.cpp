// Host conversions: every 16-bit number survives the way through fp32, and fp32 is rounded to nearest even.
#include "reference/numeric.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <string>
#include <vector>

namespace machete::reference {
namespace {

std::uint16_t round_once(DataType type, float value) {
  std::uint16_t bits = 0;
  from_float(type, &bits, 0, value);
  return bits;
}

class Numeric : public ::testing::TestWithParam<DataType> {};

TEST_P(Numeric, EveryNumberSurvives) {
  for (unsigned i = 0; i < 0x10000; ++i) {
    const auto bits = static_cast<std::uint16_t>(i);
    const float value = to_float(GetParam(), &bits, 0);
    if (std::isnan(value)) {
      const std::uint16_t back = round_once(GetParam(), value);
      EXPECT_TRUE(std::isnan(to_float(GetParam(), &back, 0))) << i;
    } else {
      EXPECT_EQ(round_once(GetParam(), value), bits) << value;
    }
  }
}

TEST_P(Numeric, RoundsToNearestEven) {
  const std::uint16_t infinity = round_once(GetParam(), std::numeric_limits<float>::infinity());
  for (std::uint16_t bits = 0; bits + 1 < infinity; ++bits) {
    const auto next = static_cast<std::uint16_t>(bits + 1);
    const float low = to_float(GetParam(), &bits, 0);
    const float high = to_float(GetParam(), &next, 0);
    const float middle = low + (high - low) / 2;

    const std::uint16_t even = bits % 2 == 0 ? bits : next;
    EXPECT_EQ(round_once(GetParam(), middle), even) << middle;
    EXPECT_EQ(round_once(GetParam(), -middle), even | 0x8000) << middle;
    EXPECT_EQ(round_once(GetParam(), std::nextafter(middle, low)), bits) << middle;
    EXPECT_EQ(round_once(GetParam(), std::nextafter(middle, high)), next) << middle;
  }
}

TEST_P(Numeric, BlocksEqualElements) {
  std::vector<std::uint16_t> bits;
  for (unsigned i = 0; i < 0x10000; ++i) bits.push_back(static_cast<std::uint16_t>(i));
  constexpr std::int64_t kFirst = 3;
  const auto count = static_cast<std::int64_t>(bits.size()) - kFirst;
  std::vector<float> block(static_cast<std::size_t>(count));
  to_floats(GetParam(), bits.data(), kFirst, count, block.data());
  for (std::int64_t i = 0; i < count; ++i) {
    const float single = to_float(GetParam(), bits.data(), kFirst + i);
    const float value = block[static_cast<std::size_t>(i)];
    EXPECT_TRUE(value == single || (std::isnan(value) && std::isnan(single))) << kFirst + i;
  }
}

INSTANTIATE_TEST_SUITE_P(Types, Numeric, ::testing::Values(DataType::kF16, DataType::kBf16),
                         [](const auto& test) { return std::string(name_of(test.param)); });

}  // namespace
}  // namespace machete::reference
