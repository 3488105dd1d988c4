#pragma once

#include <cstdint>
#include <vector>

#include "formats/foreign.h"
#include "formats/layer_tensors.h"

/// What the formats of compressed-tensors share: codes and zero points are signed, scales lie row by row.
namespace machete::formats {

/// Fills in scale_type, and returns how many groups NAME.weight_scale has: it is [N, groups], [N], or one number.
Result<std::int64_t> find_row_scales(const LayerTensors& tensors, ForeignLayer& layer);

/// NAME.weight_scale as [groups, N].
std::vector<std::uint8_t> read_row_scales(const LayerTensors& tensors, const ForeignLayer& layer);

/// NAME.weight_zero_point, if it is I8 of the scales' shape, as [groups, N] counted from the lowest code. Nothing if
/// one of them is outside of the type.
std::vector<std::uint8_t> read_row_zeros(const LayerTensors& tensors, const ForeignLayer& layer);

constexpr const char* kWeightScale = ".weight_scale";
constexpr const char* kWeightZeroPoint = ".weight_zero_point";
constexpr const char* kWeightGIdx = ".weight_g_idx";

}  // namespace machete::formats
