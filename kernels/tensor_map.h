#pragma once

#include <cuda.h>

#include <array>
#include <cstdint>

#include "kernels/kernel.h"
#include "kernels/layout/weight_layout.h"

/// The TMA descriptors of a launch. Out-of-range elements arrive as zeros, which are zero weights, scales and
/// activations: the padding of K and N needs no other care.
namespace machete::kernels {

/// Of a dense tensor: sizes and box innermost first, strides in bytes of the dimensions but the first.
template <std::size_t kRank>
bool encode_tensor_map(const Launch& launch, CUtensorMap* map, CUtensorMapDataType type, const void* base,
                       const std::array<std::uint64_t, kRank>& sizes,
                       const std::array<std::uint64_t, kRank - 1>& strides, const std::array<std::uint32_t, kRank>& box,
                       CUtensorMapSwizzle swizzle) {
  using Encode = CUresult (*)(CUtensorMap*, CUtensorMapDataType, cuuint32_t, void*, const cuuint64_t*,
                              const cuuint64_t*, const cuuint32_t*, const cuuint32_t*, CUtensorMapInterleave,
                              CUtensorMapSwizzle, CUtensorMapL2promotion, CUtensorMapFloatOOBfill);
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
  return reinterpret_cast<Encode>(launch.encode_tensor_map)(
             map, type, kRank, const_cast<void*>(base), extents, pitches, boxes, steps, CU_TENSOR_MAP_INTERLEAVE_NONE,
             swizzle, CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS;
}

/// (K, M) of `bytes` each, 1 or 2, box (128 bytes, tokens), 128-byte swizzle.
inline bool encode_activations(const Launch& launch, int tokens, CUtensorMap* map, std::size_t bytes = 2) {
  return encode_tensor_map<2>(
      launch, map, bytes == 1 ? CU_TENSOR_MAP_DATA_TYPE_UINT8 : CU_TENSOR_MAP_DATA_TYPE_UINT16, launch.a,
      {static_cast<std::uint64_t>(launch.shape.k), static_cast<std::uint64_t>(launch.m)},
      {static_cast<std::uint64_t>(launch.lda) * bytes},
      {static_cast<std::uint32_t>(128 / bytes), static_cast<std::uint32_t>(tokens)}, CU_TENSOR_MAP_SWIZZLE_128B);
}

/// (columns of D, M) of 16 bit, box (64, tokens), 128-byte swizzle. Rows begin on 16 bytes.
inline bool encode_residual(const Launch& launch, int tokens, CUtensorMap* map) {
  return encode_tensor_map<2>(launch, map, CU_TENSOR_MAP_DATA_TYPE_UINT16, launch.epilogue.residual,
                              {static_cast<std::uint64_t>(launch.shape.n), static_cast<std::uint64_t>(launch.m)},
                              {static_cast<std::uint64_t>(launch.epilogue.ldc) * 2},
                              {64, static_cast<std::uint32_t>(tokens)}, CU_TENSOR_MAP_SWIZZLE_128B);
}

/// (K/64*64, N/16) of 8 bytes, of 8 bits twice as many, box (k, strips): a strip's tiles are contiguous.
inline bool encode_weights(const Launch& launch, int k, int strips, CUtensorMap* map) {
  const int words = launch.shape.bits / 4;  // of 8 bytes, that are one k of a strip
  const auto row = static_cast<std::uint64_t>(launch.shape.k_padded * words);
  return encode_tensor_map<2>(launch, map, CU_TENSOR_MAP_DATA_TYPE_UINT64, launch.weights,
                              {row, static_cast<std::uint64_t>(launch.shape.n_padded) / layout::kStripRows}, {row * 8},
                              {static_cast<std::uint32_t>(k * words), static_cast<std::uint32_t>(strips)},
                              CU_TENSOR_MAP_SWIZZLE_NONE);
}

/// Scales or zero points: (groups * 16, N/16) of 16 bit, box (groups * 16, strips): a strip's groups are contiguous,
/// one row of the box.
inline bool encode_scales(const Launch& launch, const void* scales, int groups, int strips, CUtensorMap* map) {
  const auto row = static_cast<std::uint64_t>(launch.shape.packed_groups) * layout::kStripRows;
  return encode_tensor_map<2>(
      launch, map, CU_TENSOR_MAP_DATA_TYPE_UINT16, scales,
      {row, static_cast<std::uint64_t>(launch.shape.n_padded) / layout::kStripRows}, {row * 2},
      {static_cast<std::uint32_t>(groups * layout::kStripRows), static_cast<std::uint32_t>(strips)},
      CU_TENSOR_MAP_SWIZZLE_NONE);
}

/// Both at once: (groups * 16, N/16, 2) of 16 bit, scales and zero points, box (groups * 16, strips, 2). The weight
/// holds them one after the other.
inline bool encode_scales_and_zeros(const Launch& launch, int groups, int strips, CUtensorMap* map) {
  const auto row = static_cast<std::uint64_t>(launch.shape.packed_groups) * layout::kStripRows;
  const auto between = static_cast<std::uint64_t>(static_cast<const char*>(launch.zero_points) -
                                                  static_cast<const char*>(launch.scales));
  return encode_tensor_map<3>(
      launch, map, CU_TENSOR_MAP_DATA_TYPE_UINT16, launch.scales,
      {row, static_cast<std::uint64_t>(launch.shape.n_padded) / layout::kStripRows, 2}, {row * 2, between},
      {static_cast<std::uint32_t>(groups * layout::kStripRows), static_cast<std::uint32_t>(strips), 2},
      CU_TENSOR_MAP_SWIZZLE_NONE);
}

}  // namespace machete::kernels
