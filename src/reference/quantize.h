#pragma once

#include <cstdint>
#include <vector>

#include "machete/status.h"
#include "machete/types.h"
#include "machete/weight.h"

namespace machete::reference {

struct QuantizeOptions {
  WeightType type = WeightType::kU4b8;
  std::int64_t group_size = 128;  // a positive multiple of 16, or -1; the last group may be partial
  DataType scale_type = DataType::kBf16;
  bool search = true;  // look for the scale (and zero point) of least squared error; false takes the largest value's
};

/// A weight in canonical form, owned.
struct QuantizedTensor {
  WeightType type = WeightType::kU4b8;
  std::int64_t n = 0;
  std::int64_t k = 0;
  std::int64_t group_size = 0;
  DataType scale_type = DataType::kBf16;
  DataType zero_point_type = DataType::kU8;
  float tensor_scale = 1;                 // times every scale
  std::vector<std::uint8_t> qweight;      // [N, row_bytes]
  std::vector<std::uint8_t> scales;       // [groups, N] of scale_type
  std::vector<std::uint8_t> zero_points;  // [groups, N] of zero_point_type; empty for types without
  std::vector<std::int32_t> g_idx;        // [K], as QuantizedWeight has it; empty where groups lie in order

  QuantizedWeight view() const;
};

/// Rounds to nearest, with the scale of each group searched: a grid of scales, each refitted to its codes by least
/// squares. Never a larger squared error than with the scale of the largest value. Scales carry 8 significant bits, so
/// that one weight serves bf16 and fp16 exactly where fp16's range allows, and codes are chosen for the rounded scale;
/// without zero points scales may be negative, since -8...7 has one more value below zero. Zero points are integers.
/// Deterministic; threaded over rows.
Result<QuantizedTensor> quantize(const float* weight /* [N, K] */, std::int64_t n, std::int64_t k,
                                 const QuantizeOptions& options = {});

}  // namespace machete::reference
