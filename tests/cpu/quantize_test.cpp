// Quantisation: the search never loses to plain rounding, codes are the nearest ones, scales serve bf16 and fp16, and
// what cannot be quantised is named.
#include "reference/quantize.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <omp.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>

#include "reference/dequantize.h"
#include "tests/cpu/reference_case.h"

namespace machete::reference {
namespace {

using ::testing::HasSubstr;

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinity = std::numeric_limits<float>::infinity();

QuantizeOptions options_of(WeightType type, std::int64_t group_size, bool search = true) {
  QuantizeOptions options;
  options.type = type;
  options.group_size = group_size;
  options.search = search;
  return options;
}

QuantizedTensor quantized(const std::vector<float>& weight, std::int64_t n, std::int64_t k,
                          const QuantizeOptions& options) {
  auto tensor = quantize(weight.data(), n, k, options);
  EXPECT_TRUE(tensor.ok()) << tensor.status().message();
  return tensor.ok() ? *tensor : QuantizedTensor();
}

// Squared error of each group: [groups, N].
std::vector<double> group_errors(const std::vector<float>& weight, const QuantizedTensor& tensor) {
  const QuantizedWeight view = tensor.view();
  const std::vector<float> values = dequantize(view);
  std::vector<double> errors(static_cast<std::size_t>(view.groups() * view.n));
  for (std::int64_t n = 0; n < view.n; ++n) {
    for (std::int64_t k = 0; k < view.k; ++k) {
      const auto at = static_cast<std::size_t>(n * view.k + k);
      const double error = static_cast<double>(weight[at]) - static_cast<double>(values[at]);
      errors[static_cast<std::size_t>((view.group_size < 0 ? 0 : k / view.group_size) * view.n + n)] += error * error;
    }
  }
  return errors;
}

double total_error(const std::vector<float>& weight, const QuantizedTensor& tensor) {
  double sum = 0;
  for (const double error : group_errors(weight, tensor)) sum += error;
  return sum;
}

// Normal weights with an outlier here and there.
std::vector<float> weights_with_outliers(std::int64_t n, std::int64_t k, unsigned seed) {
  std::vector<float> weight = normal_values(n * k, seed, 0.03f);
  for (std::size_t i = seed; i < weight.size(); i += 97) weight[i] *= 12;
  return weight;
}

class Quantize : public ::testing::TestWithParam<WeightType> {};

TEST_P(Quantize, NeverLosesToPlainRounding) {
  for (const std::int64_t n : {1, 17, 67}) {
    for (const std::int64_t k : {1, 15, 16, 63, 65, 100, 576}) {
      for (const std::int64_t group_size : {-1, 16, 32, 48, 64, 128, 144}) {
        const std::vector<float> weight = weights_with_outliers(n, k, static_cast<unsigned>(n + k));
        const QuantizedTensor searched = quantized(weight, n, k, options_of(GetParam(), group_size));
        const QuantizedTensor plain = quantized(weight, n, k, options_of(GetParam(), group_size, false));
        const std::vector<double> after = group_errors(weight, searched);
        const std::vector<double> before = group_errors(weight, plain);
        for (std::size_t i = 0; i < after.size(); ++i) {
          // Both are computed in fp32 from fp32 values: equal choices may differ by rounding.
          ASSERT_LE(after[i], before[i] * 1.0001 + 1e-14)
              << "group " << i << " of N=" << n << ", K=" << k << ", group_size=" << group_size;
        }
      }
    }
  }
}

TEST_P(Quantize, CodesAreTheNearest) {
  const std::int64_t n = 33;
  const std::int64_t k = 200;
  for (const bool search : {true, false}) {
    const std::vector<float> weight = weights_with_outliers(n, k, 5);
    const QuantizedTensor tensor = quantized(weight, n, k, options_of(GetParam(), 64, search));
    const QuantizedWeight view = tensor.view();
    const WeightReader reader(view);
    for (std::int64_t row = 0; row < n; ++row) {
      for (std::int64_t column = 0; column < k; ++column) {
        const std::int64_t at = column / 64 * n + row;
        const float scale = to_float(view.scale_type, view.scales, at);
        const float zero = reader.zero(column / 64, row);
        const float value = weight[static_cast<std::size_t>(row * k + column)];
        float nearest = kInfinity;
        for (int u = 0; u < 1 << bits_of(GetParam()); ++u) {
          const float v = convert::coding_of(GetParam()).value(u);
          if (!std::isnan(v)) nearest = std::min(nearest, std::abs(scale * (v - zero) - value));
        }
        const float found = scale * (reader.value(row, column) - zero);
        const float error = std::abs(found - value);
        ASSERT_LE(error, nearest + 1e-5f * std::abs(scale)) << row << ", " << column;
      }
    }
  }
}

TEST_P(Quantize, ScalesServeBothActivationTypes) {
  for (const DataType scale_type : {DataType::kBf16, DataType::kF16, DataType::kF32}) {
    QuantizeOptions options = options_of(GetParam(), 32);
    options.scale_type = scale_type;
    const QuantizedTensor tensor = quantized(weights_with_outliers(40, 256, 2), 40, 256, options);
    for (std::int64_t i = 0; i < tensor.view().groups() * tensor.n; ++i) {
      const float scale = to_float(scale_type, tensor.scales.data(), i);
      for (const DataType other : {DataType::kBf16, DataType::kF16}) {
        std::uint16_t bits = 0;
        from_float(other, &bits, 0, scale);
        ASSERT_EQ(to_float(other, &bits, 0), scale) << i;
      }
    }
  }
}

TEST_P(Quantize, SearchHelpsNormalWeights) {
  const std::vector<float> weight = normal_values(64 * 1024, 3);
  const double plain = total_error(weight, quantized(weight, 64, 1024, options_of(GetParam(), 128, false)));
  const double searched = total_error(weight, quantized(weight, 64, 1024, options_of(GetParam(), 128)));
  EXPECT_LT(searched, 0.92 * plain);
}

TEST_P(Quantize, ZerosAndConstantsAreExact) {
  for (const float value : {0.0f, 0.75f, -0.75f, 3.0f, -1.0f / 1024}) {
    const std::vector<float> weight(3 * 80, value);
    EXPECT_EQ(dequantize(quantized(weight, 3, 80, options_of(GetParam(), 32)).view()), weight) << value;
  }
}

TEST_P(Quantize, ExtremeMagnitudesStayFinite) {
  // Powers of two of one sign pattern: relative precision must not depend on the magnitude down to bf16's subnormals.
  for (const int exponent : {127, 100, 20, -20, -100, -120}) {
    std::vector<float> weight = normal_values(4 * 64, 9);
    float largest = 0;
    for (const float value : weight) largest = std::max(largest, std::abs(value));
    for (float& value : weight) value = std::ldexp(value / largest, exponent);
    const QuantizedTensor tensor = quantized(weight, 4, 64, options_of(GetParam(), 64));
    const std::vector<float> values = dequantize(tensor.view());
    for (std::size_t i = 0; i < values.size(); ++i) {
      ASSERT_LE(std::abs(values[i] / 2 - weight[i] / 2), std::ldexp(0.1f, exponent - 1)) << exponent;
    }
  }
  // fp32's subnormals are below bf16's resolution of scales: small errors, nothing else.
  std::vector<float> tiny(64, 0.0f);
  tiny[5] = std::numeric_limits<float>::denorm_min();
  tiny[9] = -100 * std::numeric_limits<float>::denorm_min();
  for (const float value : dequantize(quantized(tiny, 1, 64, options_of(GetParam(), 32)).view())) {
    EXPECT_LE(std::abs(value), 0x1p-133f);
  }
}

TEST_P(Quantize, DoesNotDependOnThreads) {
  const std::vector<float> weight = weights_with_outliers(37, 300, 8);
  const int threads = omp_get_max_threads();
  omp_set_num_threads(1);
  const QuantizedTensor one = quantized(weight, 37, 300, options_of(GetParam(), 48));
  omp_set_num_threads(5);
  const QuantizedTensor five = quantized(weight, 37, 300, options_of(GetParam(), 48));
  omp_set_num_threads(threads);
  EXPECT_EQ(one.qweight, five.qweight);
  EXPECT_EQ(one.scales, five.scales);
  EXPECT_EQ(one.zero_points, five.zero_points);
}

TEST_P(Quantize, FillsTheCanonicalForm) {
  const std::vector<float> weight(3 * 35, 1.0f);
  const QuantizedTensor tensor = quantized(weight, 3, 35, options_of(GetParam(), 16));
  const std::size_t row_bytes = bits_of(GetParam()) == 4 ? 18 : 35;
  EXPECT_EQ(tensor.qweight.size(), 3 * row_bytes);
  EXPECT_EQ(tensor.scales.size(), 3u * 3u * 2u);
  EXPECT_EQ(tensor.zero_points.size(), has_zero_points(GetParam()) ? 9u : 0u);
  EXPECT_EQ(tensor.view().zero_points == nullptr, !has_zero_points(GetParam()));
  if (bits_of(GetParam()) == 8) return;
  for (std::size_t row = 0; row < 3; ++row) EXPECT_EQ(tensor.qweight[row * row_bytes + 17] >> 4, 0) << "beyond K";
}

TEST_P(Quantize, NamesTheFirstValueThatIsNotFinite) {
  for (const float bad : {kNan, kInfinity, -kInfinity}) {
    std::vector<float> weight = normal_values(8 * 40, 1);
    weight[3 * 40 + 17] = bad;
    weight[6 * 40 + 1] = bad;
    const auto tensor = quantize(weight.data(), 8, 40, options_of(GetParam(), 16));
    ASSERT_FALSE(tensor.ok());
    EXPECT_EQ(tensor.status().code(), StatusCode::kInvalidArgument);
    EXPECT_THAT(tensor.status().message(), HasSubstr("weight[3, 17]="));
  }
}

TEST_P(Quantize, RefusesWhatFp16ScalesCannotReach) {
  std::vector<float> weight(64, 1.0f);
  weight[2] = 1e9f;
  QuantizeOptions options = options_of(GetParam(), 64);
  EXPECT_TRUE(quantize(weight.data(), 1, 64, options).ok());
  options.scale_type = DataType::kF16;
  const auto tensor = quantize(weight.data(), 1, 64, options);
  ASSERT_FALSE(tensor.ok());
  EXPECT_THAT(tensor.status().message(), HasSubstr("weight[0, 2]="));
}

INSTANTIATE_TEST_SUITE_P(Types, Quantize, ::testing::ValuesIn(weight_types()),
                         [](const auto& test) { return std::string(name_of(test.param)); });

TEST(QuantizeU4b8, UsesANegativeScaleForTheWiderSide) {
  std::vector<float> weight;
  for (int i = 0; i < 16; ++i) weight.push_back(0.5f * static_cast<float>(8 - i));  // 4 ... -3.5
  const QuantizedTensor tensor = quantized(weight, 1, 16, options_of(WeightType::kU4b8, 16));
  EXPECT_LT(to_float(tensor.scale_type, tensor.scales.data(), 0), 0);
  EXPECT_EQ(dequantize(tensor.view()), weight);
}

TEST(QuantizeU4, ServesOneSidedWeightsBetter) {
  std::vector<float> weight = normal_values(16 * 256, 4);
  for (float& value : weight) value = std::abs(value);
  const double symmetric = total_error(weight, quantized(weight, 16, 256, options_of(WeightType::kU4b8, 64)));
  const double asymmetric = total_error(weight, quantized(weight, 16, 256, options_of(WeightType::kU4, 64)));
  EXPECT_LT(asymmetric, 0.4 * symmetric);
}

TEST(QuantizeU4, IsNeverWorseThanU4b8) {
  const std::vector<float> weight = weights_with_outliers(64, 320, 6);
  const auto symmetric = group_errors(weight, quantized(weight, 64, 320, options_of(WeightType::kU4b8, 64)));
  const auto asymmetric = group_errors(weight, quantized(weight, 64, 320, options_of(WeightType::kU4, 64)));
  for (std::size_t i = 0; i < symmetric.size(); ++i) EXPECT_LE(asymmetric[i], symmetric[i] * 1.0001) << i;
}

TEST(QuantizeArguments, AreChecked) {
  const std::vector<float> weight(64, 1.0f);
  const auto message = [&](const float* data, std::int64_t n, std::int64_t k, const QuantizeOptions& options) {
    return quantize(data, n, k, options).status().message();
  };
  EXPECT_THAT(message(nullptr, 1, 64, {}), HasSubstr("weight is null"));
  EXPECT_THAT(message(weight.data(), 0, 64, {}), HasSubstr("N=0"));
  EXPECT_THAT(message(weight.data(), 1, -4, {}), HasSubstr("K=-4"));
  for (const std::int64_t group_size : {0, -2, 8, 24}) {
    EXPECT_THAT(message(weight.data(), 1, 64, options_of(WeightType::kU4b8, group_size)),
                HasSubstr("group_size=" + std::to_string(group_size)));
  }
}

}  // namespace
}  // namespace machete::reference
