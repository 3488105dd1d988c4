#pragma once

#include <cstddef>
#include <cstdint>
#include <random>
#include <vector>

#include "machete/problem.h"
#include "machete/weight.h"
#include "reference/numeric.h"

/// Random inputs for the tests of src/reference; a seed gives the same ones everywhere.
namespace machete::reference {

/// Zero-mean normal numbers.
inline std::vector<float> normal_values(std::int64_t count, unsigned seed, float deviation = 1) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0, deviation);
  std::vector<float> values(static_cast<std::size_t>(count));
  for (float& value : values) value = normal(random);
  return values;
}

/// An array of `type`, rounded from fp32.
inline std::vector<std::uint8_t> rounded_to(DataType type, const std::vector<float>& values) {
  std::vector<std::uint8_t> bytes(values.size() * bytes_of(type));
  for (std::size_t i = 0; i < values.size(); ++i) {
    from_float(type, bytes.data(), static_cast<std::int64_t>(i), values[i]);
  }
  return bytes;
}

struct OwnedWeight {
  std::vector<std::uint8_t> qweight, scales, zero_points;
  QuantizedWeight view;
};

/// Uniform codes and, as far as asked for, zero points; scales of either sign between 1/64 and 1/32, exact in bf16 and
/// f16.
inline OwnedWeight random_weight(std::int64_t n, std::int64_t k, std::int64_t group_size, unsigned seed,
                                 WeightType type = WeightType::kU4b8, DataType scale_type = DataType::kBf16) {
  std::mt19937 random(seed);
  OwnedWeight weight;
  QuantizedWeight& view = weight.view;
  view.type = type;
  view.n = n;
  view.k = k;
  view.group_size = group_size;
  view.scale_type = scale_type;
  const std::int64_t row_bytes = (k + 1) / 2;
  weight.qweight.resize(static_cast<std::size_t>(n * row_bytes));
  for (std::size_t i = 0; i < weight.qweight.size(); ++i) weight.qweight[i] = static_cast<std::uint8_t>(random());
  if (k % 2 == 1) {
    for (std::int64_t row = 0; row < n; ++row) {
      weight.qweight[static_cast<std::size_t>((row + 1) * row_bytes - 1)] &= 15;
    }
  }
  std::vector<float> scales(static_cast<std::size_t>(view.groups() * n));
  for (float& scale : scales) {
    scale = static_cast<float>(128 + random() % 128) / 8192;
    if (random() % 2 == 1) scale = -scale;
  }
  weight.scales = rounded_to(scale_type, scales);
  if (type == WeightType::kU4) {
    weight.zero_points.resize(scales.size());
    for (std::uint8_t& zero : weight.zero_points) zero = static_cast<std::uint8_t>(random() % 16);
  }
  view.qweight = weight.qweight.data();
  view.scales = weight.scales.data();
  view.zero_points = weight.zero_points.empty() ? nullptr : weight.zero_points.data();
  return weight;
}

inline Problem problem_of(std::int64_t m, const QuantizedWeight& weight, DataType a_type, DataType d_type) {
  Problem problem;
  problem.m = m;
  problem.n = weight.n;
  problem.k = weight.k;
  problem.a_type = a_type;
  problem.d_type = d_type;
  problem.w_type = weight.type;
  problem.group_size = weight.group_size;
  return problem;
}

}  // namespace machete::reference
