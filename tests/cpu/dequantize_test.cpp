// Canonical weights are read as weight.h describes them.
#include "reference/dequantize.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "tests/cpu/reference_case.h"

namespace machete::reference {
namespace {

TEST(Dequantize, ReadsAnExampleByHand) {
  // Two rows of 17, groups of 16: codes of row 0 count up, those of row 1 are 15; low nibble first.
  std::vector<std::uint8_t> qweight = {0x10, 0x32, 0x54, 0x76, 0x98, 0xba, 0xdc, 0xfe, 0x03,
                                       0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x0f};
  const std::vector<std::uint8_t> scales = rounded_to(DataType::kBf16, {0.5f, -1.0f, 2.0f, 0.25f});  // [2, 2]
  QuantizedWeight weight;
  weight.n = 2;
  weight.k = 17;
  weight.group_size = 16;
  weight.qweight = qweight.data();
  weight.scales = scales.data();
  const std::vector<float> symmetric = dequantize(weight);
  ASSERT_EQ(symmetric.size(), 34u);
  for (std::size_t k = 0; k < 16; ++k) {
    EXPECT_EQ(symmetric[k], 0.5f * (static_cast<float>(k) - 8)) << k;
    EXPECT_EQ(symmetric[17 + k], -7.0f) << k;
  }
  EXPECT_EQ(symmetric[16], 2.0f * (3 - 8));
  EXPECT_EQ(symmetric[33], 0.25f * (15 - 8));

  const std::vector<std::uint8_t> zero_points = {0, 15, 3, 5};  // [2, 2]
  weight.type = WeightType::kU4;
  weight.zero_points = zero_points.data();
  const std::vector<float> asymmetric = dequantize(weight);
  EXPECT_EQ(asymmetric[7], 0.5f * 7);
  EXPECT_EQ(asymmetric[16], 0.0f);
  EXPECT_EQ(asymmetric[17], 0.0f);
  EXPECT_EQ(asymmetric[33], 0.25f * 10);
}

TEST(Dequantize, AgreesWithAWalkOverTheCodes) {
  for (const Kind& kind : all_kinds()) {
    const convert::Coding coding = convert::coding_of(kind.type);
    const bool is_signed = coding.is_signed;
    const std::size_t bits = static_cast<std::size_t>(bits_of(kind.type));
    for (const DataType scale_type : {DataType::kBf16, DataType::kF16, DataType::kF32}) {
      for (const std::int64_t k : {1, 15, 16, 63, 65, 100, 576}) {
        for (const std::int64_t group_size : {-1, 16, 32, 48, 64, 128, 144}) {
          const std::int64_t n = 17;
          const OwnedWeight weight = random_weight(n, k, group_size, 7, kind, scale_type);
          const std::vector<float> values = dequantize(weight.view);
          std::size_t bit = 0;
          for (std::int64_t row = 0; row < n; ++row, bit = (bit + 7) / 8 * 8) {
            for (std::int64_t column = 0; column < k; ++column, bit += bits) {
              int q = weight.qweight[bit / 8] >> (bit % 8) & ((1 << bits) - 1);
              if (is_signed && q >= 1 << (bits - 1)) q -= 1 << bits;
              const std::int64_t at = (group_size < 0 ? 0 : column / group_size) * n + row;
              float zero = is_signed ? 0 : bits == 4 ? 8 : 128;
              if (!coding.is_integer()) {
                ASSERT_EQ(values[static_cast<std::size_t>(row * k + column)],
                          to_float(scale_type, weight.scales.data(), at) * coding.value(q));
                continue;
              }
              if (has_zero_points(kind.type)) zero = to_float(kind.zero_point_type, weight.zero_points.data(), at);
              ASSERT_EQ(values[static_cast<std::size_t>(row * k + column)],
                        to_float(scale_type, weight.scales.data(), at) * (static_cast<float>(q) - zero))
                  << name_of(kind) << ": " << row << ", " << column << " of K=" << k << ", group_size=" << group_size;
            }
          }
        }
      }
    }
  }
}

// OCP 8-bit floating point and microscaling specifications, 1.0.
TEST(Dequantize, FloatingPointCodesHaveTheirValues) {
  const convert::Coding e2m1 = convert::coding_of(WeightType::kE2m1);
  const float magnitudes[] = {0, 0.5f, 1, 1.5f, 2, 3, 4, 6};
  for (int u = 0; u < 16; ++u) EXPECT_EQ(e2m1.value(u), u < 8 ? magnitudes[u] : -magnitudes[u - 8]);

  const convert::Coding e4m3 = convert::coding_of(WeightType::kE4m3);
  for (int u = 0; u < 256; ++u) {
    const int exponent = u >> 3 & 15;
    const int mantissa = u & 7;
    const float sign = u < 128 ? 1.0f : -1.0f;
    if (exponent == 15 && mantissa == 7) {
      EXPECT_TRUE(std::isnan(e4m3.value(u)));
    } else if (exponent == 0) {
      EXPECT_EQ(e4m3.value(u), sign * std::ldexp(static_cast<float>(mantissa), -9));
    } else {
      EXPECT_EQ(e4m3.value(u), sign * std::ldexp(1 + static_cast<float>(mantissa) / 8, exponent - 7));
    }
  }
  EXPECT_EQ(e4m3.value(0x7e), 448);
  EXPECT_TRUE(std::signbit(e4m3.value(0x80)));

  // Eigen's half has one byte more of mantissa.
  const convert::Coding e5m2 = convert::coding_of(WeightType::kE5m2);
  for (int u = 0; u < 256; ++u) {
    const std::uint16_t bits = static_cast<std::uint16_t>(u << 8);
    const float expected = to_float(DataType::kF16, &bits, 0);
    if (std::isnan(expected)) {
      EXPECT_TRUE(std::isnan(e5m2.value(u)));
    } else {
      EXPECT_EQ(e5m2.value(u), expected);
    }
  }
  EXPECT_EQ(e5m2.largest(), 57344);
  EXPECT_EQ(e5m2.value(0x7c), std::numeric_limits<float>::infinity());

  std::uint8_t exponents[] = {0, 126, 127, 130, 254, 255};
  EXPECT_EQ(to_float(DataType::kE8m0, exponents, 0), 0x1p-127f);
  EXPECT_EQ(to_float(DataType::kE8m0, exponents, 1), 0.5f);
  EXPECT_EQ(to_float(DataType::kE8m0, exponents, 2), 1);
  EXPECT_EQ(to_float(DataType::kE8m0, exponents, 3), 8);
  EXPECT_EQ(to_float(DataType::kE8m0, exponents, 4), 0x1p127f);
  EXPECT_TRUE(std::isnan(to_float(DataType::kE8m0, exponents, 5)));
}

}  // namespace
}  // namespace machete::reference
