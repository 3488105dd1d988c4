#pragma once

#include <cuda.h>

#include <array>
#include <cstdint>

namespace machete::kernels {

using EncodeTensorMap = CUresult (*)(CUtensorMap*, CUtensorMapDataType, cuuint32_t, void*, const cuuint64_t*,
                                     const cuuint64_t*, const cuuint32_t*, const cuuint32_t*, CUtensorMapInterleave,
                                     CUtensorMapSwizzle, CUtensorMapL2promotion, CUtensorMapFloatOOBfill);

/// A TMA descriptor of a dense tensor: sizes and box innermost first, strides in bytes of the dimensions but the first.
template <std::size_t kRank>
CUresult encode_tensor_map(EncodeTensorMap encode, CUtensorMap* map, CUtensorMapDataType type, const void* base,
                           const std::array<std::uint64_t, kRank>& sizes,
                           const std::array<std::uint64_t, kRank - 1>& strides,
                           const std::array<std::uint32_t, kRank>& box, CUtensorMapSwizzle swizzle) {
  cuuint64_t extents[kRank];
  cuuint64_t pitches[kRank];
  cuuint32_t boxes[kRank];
  cuuint32_t steps[kRank];
  for (std::size_t i = 0; i < kRank; ++i) {
    extents[i] = sizes[i];
    boxes[i] = box[i];
    steps[i] = 1;
    if (i > 0) pitches[i - 1] = strides[i - 1];
  }
  return encode(map, type, kRank, const_cast<void*>(base), extents, pitches, boxes, steps,
                CU_TENSOR_MAP_INTERLEAVE_NONE, swizzle, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
}

}  // namespace machete::kernels
