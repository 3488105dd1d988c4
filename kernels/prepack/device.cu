#include <cuda_runtime.h>

#include "kernels/convert/u4b8.h"
#include "kernels/layout/weight_layout.h"
#include "kernels/prepack/device.h"

namespace machete::packing {
namespace {

using convert::U4b8;
using layout::kStripRows;
using layout::kTileElements;
using layout::kTileK;

constexpr int kThreads = 256;

unsigned blocks_for(std::int64_t items) { return static_cast<unsigned>((items + kThreads - 1) / kThreads); }

// A thread makes one word: eight neighbours in memory order.
__global__ void pack_weights_kernel(const std::uint8_t* q, Shape shape, std::uint32_t* packed) {
  constexpr int kWords = kTileElements / 8;
  const std::int64_t word = std::int64_t{blockIdx.x} * kThreads + threadIdx.x;
  const std::int64_t tile = word / kWords;
  const std::int64_t tiles_k = shape.k_padded / kTileK;
  if (tile >= shape.n_padded / kStripRows * tiles_k) return;
  const std::int64_t row_bytes = (shape.k + 1) / 2;
  constexpr auto places = layout::tile_inverse();  // element -> row + 16 k
  std::uint32_t value = 0;
#pragma unroll
  for (int e = 0; e < 8; ++e) {
    const int place = places(static_cast<int>(word % kWords) * 8 + e);
    const std::int64_t n = tile / tiles_k * kStripRows + place % kStripRows;
    const std::int64_t k = tile % tiles_k * kTileK + place / kStripRows;
    if (n >= shape.n || k >= shape.k) continue;
    const std::uint8_t code = q[n * row_bytes + k / 2] >> (k % 2 * 4) & 15u;
    value |= static_cast<std::uint32_t>(U4b8::encode(code)) << (4 * e);
  }
  packed[word] = value;
}

// A thread moves one scale.
__global__ void pack_scales_kernel(const std::uint16_t* scales, Shape shape, std::uint16_t* packed) {
  const std::int64_t index = std::int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (index >= shape.scale_count()) return;
  const std::int64_t group = index / kStripRows % shape.packed_groups;
  const std::int64_t strip = index / kStripRows / shape.packed_groups;
  constexpr auto rows = cute::right_inverse(layout::scale_layout());
  const std::int64_t n = strip * kStripRows + rows(static_cast<int>(index % kStripRows));
  const bool padding = n >= shape.n || group * shape.packed_group_size >= shape.k;
  packed[index] = padding ? std::uint16_t{0} : scales[shape.source_group(group) * shape.n + n];
}

}  // namespace

int pack_weights_on_device(const std::uint8_t* q, const Shape& shape, std::uint8_t* packed, void* stream) {
  pack_weights_kernel<<<blocks_for(shape.weight_bytes() / 4), kThreads, 0, static_cast<cudaStream_t>(stream)>>>(
      q, shape, reinterpret_cast<std::uint32_t*>(packed));
  return cudaGetLastError();
}

int pack_scales_on_device(const std::uint16_t* scales, const Shape& shape, std::uint16_t* packed, void* stream) {
  pack_scales_kernel<<<blocks_for(shape.scale_count()), kThreads, 0, static_cast<cudaStream_t>(stream)>>>(scales, shape,
                                                                                                          packed);
  return cudaGetLastError();
}

}  // namespace machete::packing
