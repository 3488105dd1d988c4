#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "api/validate.h"
#include "kernels/convert/coding.h"
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

/// A weight type, and the type of its zero points where it has them.
struct Kind {
  WeightType type = WeightType::kU4b8;
  DataType zero_point_type = DataType::kU8;
};

inline const std::vector<Kind>& all_kinds() {
  static const std::vector<Kind> kinds = [] {
    std::vector<Kind> all;
    for (const WeightType type : weight_types()) {
      all.push_back({type});
      if (has_zero_points(type)) all.push_back({type, bits_of(type) == 4 ? DataType::kF16 : DataType::kBf16});
    }
    return all;
  }();
  return kinds;
}

inline std::string name_of(const Kind& kind) {
  const bool floating = has_zero_points(kind.type) && kind.zero_point_type != DataType::kU8;
  return std::string(name_of(kind.type)) + (floating ? "_" + std::string(name_of(kind.zero_point_type)) : "");
}

/// The types of activations that the weights meet.
inline std::vector<DataType> activation_types(const Kind& kind) {
  std::vector<DataType> types;
  for (const DataType type : {DataType::kBf16, DataType::kF16, DataType::kS8, DataType::kE4m3}) {
    if (validate::activation_type(type, kind.type).ok()) types.push_back(type);
  }
  return types;
}

/// Normal activations that fill their type's range, as far as it is short.
inline std::vector<std::uint8_t> normal_activations(DataType type, std::int64_t count, unsigned seed) {
  return rounded_to(type, normal_values(count, seed, type == DataType::kS8 ? 40 : 1));
}

struct OwnedWeight {
  std::vector<std::uint8_t> qweight, scales, zero_points;
  QuantizedWeight view;
};

/// Random codes and zero points; scales of either sign between 1/64 and 1/32; all exact in bf16 and f16.
inline OwnedWeight random_weight(std::int64_t n, std::int64_t k, std::int64_t group_size, unsigned seed, Kind kind = {},
                                 DataType scale_type = DataType::kBf16) {
  std::mt19937 random(seed);
  OwnedWeight weight;
  QuantizedWeight& view = weight.view;
  view.type = kind.type;
  view.n = n;
  view.k = k;
  view.group_size = group_size;
  view.scale_type = scale_type;
  const std::int64_t row_bytes = view.row_bytes();
  weight.qweight.resize(static_cast<std::size_t>(n * row_bytes));
  const convert::Coding coding = convert::coding_of(kind.type);
  // No NaN, and nothing so large or fine that sums of small integers round.
  const auto is_tame = [&](int code) {
    const float value = coding.value(code);
    return coding.is_integer() || (std::abs(value) <= 16 && std::nearbyint(value * 512) == value * 512);
  };
  for (std::uint8_t& byte : weight.qweight) {
    do {
      byte = static_cast<std::uint8_t>(random());
    } while (!is_tame(byte % coding.codes()) || !is_tame(byte >> (8 - coding.bits)));
  }
  if (k * bits_of(kind.type) % 8 != 0) {
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
  if (has_zero_points(kind.type)) {
    const bool whole = kind.zero_point_type == DataType::kU8;
    const unsigned most = whole ? 1u << bits_of(kind.type) : 256;
    std::vector<float> zeros(scales.size());
    for (float& zero : zeros) zero = static_cast<float>(random() % most) / (whole ? 1 : 16);
    weight.zero_points = rounded_to(kind.zero_point_type, zeros);
    view.zero_point_type = kind.zero_point_type;
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
