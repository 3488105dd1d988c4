#pragma once

#include <cstdint>

#include "machete/types.h"

/// Conversions between fp32 and the other types on the host, rounding to nearest even.
namespace machete::reference {

/// Element `index` of an array of `type`. Every value of every type is exact in fp32.
float to_float(DataType type, const void* base, std::int64_t index);

/// Writes element `index` of any type but e8m0; what lies beyond the largest finite value becomes infinite, of s8 and
/// e4m3 that value itself.
void from_float(DataType type, void* base, std::int64_t index, float value);

/// `count` elements from `first` on.
void to_floats(DataType type, const void* base, std::int64_t first, std::int64_t count, float* out);

}  // namespace machete::reference
