// Activations to 8 bits, token by token.
#include "machete/tokens.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "tests/cpu/reference_case.h"

namespace machete {
namespace {

using reference::to_float;
using ::testing::HasSubstr;

TokenOptions on_cpu() {
  TokenOptions options;
  options.device = Device::cpu();
  return options;
}

struct Quantized {
  std::vector<std::uint8_t> codes;
  std::vector<float> scales;
};

Quantized quantize(const TokenQuantization& what, const std::vector<std::uint8_t>& a) {
  const std::int64_t pitch = what.ldc > 0 ? what.ldc : what.k;
  Quantized result{std::vector<std::uint8_t>(static_cast<std::size_t>(what.m * pitch), 0x55),
                   std::vector<float>(static_cast<std::size_t>(what.m), -1)};
  const Status status = quantize_tokens(what, a.data(), result.codes.data(), result.scales.data(), on_cpu());
  EXPECT_TRUE(status.ok()) << status.message();
  return result;
}

class Tokens : public ::testing::TestWithParam<std::tuple<DataType, DataType>> {
 protected:
  TokenQuantization what(std::int64_t m, std::int64_t k) const {
    TokenQuantization result;
    result.m = m;
    result.k = k;
    std::tie(result.a_type, result.code_type) = GetParam();
    return result;
  }
  float limit() const { return std::get<1>(GetParam()) == DataType::kS8 ? 127 : 448; }
  // Half a unit in the last place of the code whose value this is, in units of the scale.
  double half_unit(double value) const {
    if (std::get<1>(GetParam()) == DataType::kS8) return 0.5;
    const int exponent = std::abs(value) < 0x1p-6 ? -6 : std::ilogb(value);
    return std::ldexp(0.5, exponent - 3);
  }
};

TEST_P(Tokens, AreWithinHalfAUnit) {
  for (const std::int64_t k : {1, 7, 64, 1000}) {
    for (const float deviation : {1e-30f, 0.01f, 1.0f, 300.0f}) {
      const auto problem = what(9, k);
      std::vector<float> values = reference::normal_values(9 * k, 3, deviation);
      values[static_cast<std::size_t>(k / 2)] *= 100;  // an outlier
      const std::vector<std::uint8_t> a = reference::rounded_to(problem.a_type, values);
      const Quantized found = quantize(problem, a);
      for (std::int64_t m = 0; m < 9; ++m) {
        float largest = 0;
        for (std::int64_t i = 0; i < k; ++i)
          largest = std::max(largest, std::abs(to_float(problem.a_type, a.data(), m * k + i)));
        if (largest > 0) {
          ASSERT_NEAR(found.scales[static_cast<std::size_t>(m)], largest / limit(), largest / limit() * 1e-7f);
        }
        const double scale = static_cast<double>(found.scales[static_cast<std::size_t>(m)]);
        for (std::int64_t i = 0; i < k; ++i) {
          const double exact = static_cast<double>(to_float(problem.a_type, a.data(), m * k + i)) / scale;
          const double code = static_cast<double>(to_float(problem.code_type, found.codes.data(), m * k + i));
          ASSERT_LE(std::abs(code), static_cast<double>(limit()));
          ASSERT_LE(std::abs(code - exact), half_unit(exact) + std::abs(exact) * 0x1p-22) << exact;
        }
      }
    }
  }
}

TEST_P(Tokens, ZerosAndTinyTokensKeepFinite) {
  const auto problem = what(3, 40);
  std::vector<float> values(120, 0.0f);
  const float least = problem.a_type == DataType::kF16 ? 0x1p-24f : 0x1p-133f;
  for (std::size_t i = 40; i < 80; ++i) values[i] = i % 2 == 0 ? least : -3 * least;
  const std::vector<std::uint8_t> a = reference::rounded_to(problem.a_type, values);
  const Quantized found = quantize(problem, a);
  for (std::int64_t i = 0; i < 120; ++i) {
    const float scale = found.scales[static_cast<std::size_t>(i / 40)];
    ASSERT_TRUE(std::isnormal(scale));
    const double back =
        static_cast<double>(to_float(problem.code_type, found.codes.data(), i)) * static_cast<double>(scale);
    const auto value = static_cast<double>(values[static_cast<std::size_t>(i)]);
    const double exact = value / static_cast<double>(scale);
    ASSERT_NEAR(back, value, static_cast<double>(scale) * (half_unit(exact) + std::abs(exact) * 0x1p-22));
    if (i < 40 || i >= 80) {
      ASSERT_EQ(to_float(problem.code_type, found.codes.data(), i), 0);
    }
  }
}

TEST_P(Tokens, NonFiniteTokensHaveNoScale) {
  for (const float bad : {std::numeric_limits<float>::infinity(), -std::numeric_limits<float>::infinity(),
                          std::numeric_limits<float>::quiet_NaN()}) {
    const auto problem = what(2, 30);
    std::vector<float> values = reference::normal_values(60, 3);
    values[45] = bad;
    const Quantized found = quantize(problem, reference::rounded_to(problem.a_type, values));
    EXPECT_TRUE(std::isfinite(found.scales[0]));
    EXPECT_TRUE(std::isnan(found.scales[1]));
    for (std::int64_t i = 30; i < 60; ++i) EXPECT_EQ(found.codes[static_cast<std::size_t>(i)] & 0x7f, 0);
  }
}

TEST_P(Tokens, ReadAndWriteOnlyTheirRows) {
  auto problem = what(4, 21);
  const std::vector<float> values = reference::normal_values(4 * 21, 8);
  const Quantized dense = quantize(problem, reference::rounded_to(problem.a_type, values));
  problem.lda = 24;
  problem.ldc = 26;
  std::vector<float> wide(4 * 24, std::numeric_limits<float>::quiet_NaN());
  for (std::size_t m = 0; m < 4; ++m) std::copy_n(values.begin() + m * 21, 21, wide.begin() + m * 24);
  const Quantized found = quantize(problem, reference::rounded_to(problem.a_type, wide));
  EXPECT_EQ(found.scales, dense.scales);
  for (std::size_t i = 0; i < 4 * 26; ++i) {
    ASSERT_EQ(found.codes[i], i % 26 < 21 ? dense.codes[i / 26 * 21 + i % 26] : 0x55) << i;
  }
}

INSTANTIATE_TEST_SUITE_P(All, Tokens,
                         ::testing::Combine(::testing::Values(DataType::kBf16, DataType::kF16),
                                            ::testing::Values(DataType::kS8, DataType::kE4m3)),
                         [](const auto& test) {
                           return std::string(name_of(std::get<0>(test.param))) + "_" +
                                  std::string(name_of(std::get<1>(test.param)));
                         });

TEST(TokenArguments, AreChecked) {
  TokenQuantization good;
  good.m = 2;
  good.k = 8;
  std::vector<std::uint16_t> a(16);
  std::vector<std::uint8_t> codes(16, 0x55);
  std::vector<float> scales(2);
  const auto error = [&](auto change) {
    TokenQuantization what = good;
    change(what);
    return quantize_tokens(what, a.data(), codes.data(), scales.data(), on_cpu()).message();
  };
  EXPECT_THAT(error([](auto& w) { w.m = -1; }), HasSubstr("M=-1"));
  EXPECT_THAT(error([](auto& w) { w.k = 0; }), HasSubstr("K=0"));
  EXPECT_THAT(error([](auto& w) { w.lda = 7; }), HasSubstr("lda=7 must be at least K=8"));
  EXPECT_THAT(error([](auto& w) { w.ldc = 7; }), HasSubstr("ldc=7"));
  EXPECT_THAT(error([](auto& w) { w.a_type = DataType::kF32; }), HasSubstr("a_type=f32"));
  EXPECT_THAT(error([](auto& w) { w.code_type = DataType::kU8; }), HasSubstr("use s8 or e4m3"));
  EXPECT_THAT(quantize_tokens(good, nullptr, codes.data(), scales.data(), on_cpu()).message(), HasSubstr("a is null"));
  EXPECT_THAT(quantize_tokens(good, a.data(), nullptr, scales.data(), on_cpu()).message(), HasSubstr("codes is null"));
  EXPECT_THAT(quantize_tokens(good, a.data(), codes.data(), nullptr, on_cpu()).message(),
              HasSubstr("token_scale is null"));
  EXPECT_EQ(codes, std::vector<std::uint8_t>(16, 0x55));
  EXPECT_EQ(scales, std::vector<float>(2));
  EXPECT_EQ(error([](auto& w) { w.m = 0; }), "");
}

// In one block of memory: a at 0, codes after it, then the scales.
TEST(TokenArguments, MayNotOverlap) {
  TokenQuantization what;
  what.m = 2;
  what.k = 8;
  what.lda = 12;  // from the first element to the last 40 bytes
  what.ldc = 10;  // 18 bytes
  alignas(16) std::uint8_t memory[128] = {};
  const auto error = [&](int a, int codes, int scales) {
    return quantize_tokens(what, memory + a, memory + codes, reinterpret_cast<float*>(memory + scales), on_cpu())
        .message();
  };
  EXPECT_EQ(error(0, 40, 60), "");
  EXPECT_EQ(error(26, 8, 0), "");
  EXPECT_THAT(error(0, 39, 60), HasSubstr("a=0x"));
  EXPECT_THAT(error(0, 39, 60), HasSubstr(" overlap; give the output memory of its own"));
  EXPECT_THAT(error(0, 0, 60), HasSubstr(" and codes=0x"));
  EXPECT_THAT(error(24, 8, 0), HasSubstr("overlap"));
  EXPECT_THAT(error(0, 60, 36), HasSubstr(" and token_scale=0x"));
  EXPECT_THAT(error(0, 40, 56), HasSubstr("codes=0x"));
  EXPECT_THAT(error(60, 7, 0), HasSubstr("overlap"));
}

}  // namespace
}  // namespace machete
