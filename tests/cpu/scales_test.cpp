// Every scale of MXFP4 and NVFP4 with every code of e2m1: products are exact wherever the type of the activations holds
// the scale, and where it does not the scale is refused.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <vector>

#include "kernels/convert/coding.h"
#include "machete/linear.h"
#include "reference/dequantize.h"
#include "tests/cpu/reference_case.h"

namespace machete::reference {
namespace {

using ::testing::HasSubstr;

constexpr std::int64_t kDepth = 16;  // k's, one a code

/// A row for each scale, with every code.
struct Rows {
  std::vector<std::uint8_t> qweight;
  std::vector<std::uint8_t> scales;
  QuantizedWeight view;

  Rows(DataType type, std::vector<std::uint8_t> of_rows) : scales(std::move(of_rows)) {
    for (std::size_t i = 0; i < scales.size() * kDepth / 2; ++i) {
      qweight.push_back(static_cast<std::uint8_t>(i * 2 % 16 | (i * 2 + 1) % 16 << 4));
    }
    view.type = WeightType::kE2m1;
    view.n = static_cast<std::int64_t>(scales.size());
    view.k = kDepth;
    view.group_size = type == DataType::kE8m0 ? 32 : 16;
    view.scale_type = type;
    view.qweight = qweight.data();
    view.scales = scales.data();
  }
  double product(std::int64_t row, std::int64_t k) const {
    const float code = convert::coding_of(view.type).value(static_cast<int>(k));
    return static_cast<double>(to_float(view.scale_type, scales.data(), row)) * static_cast<double>(code);
  }
};

PrepackOptions on_cpu(DataType scale_type) {
  PrepackOptions options;
  options.device = Device::cpu();
  options.scale_type = scale_type;
  return options;
}

bool holds(DataType type, float value) {
  std::uint8_t bytes[2];
  from_float(type, bytes, 0, value);
  return to_float(type, bytes, 0) == value;
}

// The unit matrix times the weight, in each type of output.
void expect_exact(const Rows& rows, DataType a_type) {
  const auto packed = prepack(rows.view, on_cpu(a_type));
  ASSERT_TRUE(packed.ok()) << packed.status().message();
  std::vector<float> unit(kDepth * kDepth);
  for (std::size_t i = 0; i < kDepth; ++i) unit[i * kDepth + i] = 1;
  const std::vector<std::uint8_t> a = rounded_to(a_type, unit);
  for (const DataType d_type : {DataType::kF32, a_type}) {
    const Problem problem = problem_of(kDepth, rows.view, a_type, d_type);
    PlanOptions options;
    options.device = Device::cpu();
    const auto plan = machete::plan(problem, options);
    ASSERT_TRUE(plan.ok()) << plan.status().message();
    std::vector<std::uint8_t> d(static_cast<std::size_t>(kDepth * rows.view.n) * bytes_of(d_type));
    ASSERT_TRUE(run(*plan, {a.data(), &*packed, d.data()}, nullptr, 0).ok());
    for (std::int64_t row = 0; row < rows.view.n; ++row) {
      for (std::int64_t k = 0; k < kDepth; ++k) {
        std::uint8_t expected[4];
        from_float(d_type, expected, 0, static_cast<float>(rows.product(row, k)));
        ASSERT_EQ(to_float(d_type, d.data(), k * rows.view.n + row), to_float(d_type, expected, 0))
            << name_of(d_type) << ", scale " << int{rows.scales[static_cast<std::size_t>(row)]} << ", code " << k;
      }
    }
  }
}

TEST(Scales, EveryPowerOfTwoOfMxfp4) {
  std::vector<std::uint8_t> all(255);
  for (std::size_t i = 0; i < all.size(); ++i) all[i] = static_cast<std::uint8_t>(i);
  const Rows rows(DataType::kE8m0, all);
  const std::vector<float> weights = dequantize(rows.view);
  for (std::int64_t i = 0; i < rows.view.n * kDepth; ++i) {
    ASSERT_EQ(weights[static_cast<std::size_t>(i)], static_cast<float>(rows.product(i / kDepth, i % kDepth)));
  }
  for (const DataType a_type : {DataType::kBf16, DataType::kF16}) {
    std::vector<std::uint8_t> held;
    for (const std::uint8_t scale : all) {
      const Rows one(DataType::kE8m0, {scale});
      const auto packed = prepack(one.view, on_cpu(a_type));
      const float value = to_float(DataType::kE8m0, &scale, 0);
      ASSERT_EQ(packed.ok(), holds(a_type, value)) << int{scale};
      if (packed.ok() && scale <= 124 + 127) held.push_back(scale);  // 6 times more would be infinite
      if (!packed.ok()) {
        EXPECT_THAT(packed.status().message(), HasSubstr(value > 1 ? "beyond the range of f16" : "no exact f16 value"));
      }
    }
    ASSERT_EQ(held.size(), a_type == DataType::kBf16 ? 252u : 40u);  // fp16 has 2^-24 ... 2^15
    // Products of fp16 may be beyond its range: 6 * 2^15 is 3 * 2^16.
    if (a_type == DataType::kF16) held.resize(held.size() - 2);
    expect_exact(Rows(DataType::kE8m0, held), a_type);
  }
}

TEST(Scales, EveryFiniteScaleOfNvfp4) {
  std::vector<std::uint8_t> finite;
  for (int code = 0; code < 256; ++code) {
    const auto scale = static_cast<std::uint8_t>(code);
    if ((code & 0x7f) != 0x7f) {
      finite.push_back(scale);
      continue;
    }
    const Rows one(DataType::kE4m3, {scale});
    EXPECT_THAT(prepack(one.view, on_cpu(DataType::kBf16)).status().message(), HasSubstr("must be finite"));
  }
  ASSERT_EQ(finite.size(), 254u);
  for (const DataType a_type : {DataType::kBf16, DataType::kF16}) expect_exact(Rows(DataType::kE4m3, finite), a_type);
}

}  // namespace
}  // namespace machete::reference
