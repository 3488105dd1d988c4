#include <cuda_runtime.h>

#include "kernels/convert/braid.h"
#include "kernels/layout/weight_layout.h"
#include "kernels/prepack/device.h"

namespace machete::packing {
namespace {

using layout::kStripRows;
using layout::kTileBytes;

constexpr int kThreads = 256;

unsigned blocks_for(std::int64_t items) { return static_cast<unsigned>((items + kThreads - 1) / kThreads); }

// A thread makes one word: eight neighbours in memory order of 4 bits, or four of 8.
template <int kBits, int kActivationBits>
__global__ void pack_weights_kernel(const std::uint8_t* q, std::uint8_t flip, bool braided, Shape shape,
                                    const std::int32_t* permutation, std::uint32_t* packed) {
  constexpr int kEach = 32 / kBits;
  constexpr int kWords = kTileBytes / 4;
  constexpr auto places = layout::tile_inverse<kBits, kActivationBits>();  // element -> row + 16 k
  constexpr int kDepth = decltype(size(places))::value / kStripRows;
  const std::int64_t word = std::int64_t{blockIdx.x} * kThreads + threadIdx.x;
  const std::int64_t tile = word / kWords;
  const std::int64_t tiles_k = shape.k_padded / kDepth;
  if (tile >= shape.n_padded / kStripRows * tiles_k) return;
  std::uint32_t value = 0;
#pragma unroll
  for (int e = 0; e < kEach; ++e) {
    const int place = places(static_cast<int>(word % kWords) * kEach + e);
    const std::int64_t n = shape.source_row(tile / tiles_k * kStripRows + place % kStripRows);
    const std::int64_t packed_k = tile % tiles_k * kDepth + place / kStripRows;
    if (n >= shape.n || packed_k >= shape.k) continue;
    const std::int64_t k = permutation == nullptr ? packed_k : permutation[packed_k];
    const std::uint8_t* row = q + n * shape.row_bytes();
    const std::uint8_t code = kBits == 8 ? row[k] : row[k / 2] >> (k % 2 * 4) & 15u;
    value |= static_cast<std::uint32_t>(code ^ flip) << (kBits * e);
  }
  packed[word] = braided ? convert::Braid::from_nibbles(value) : value;
}

// A thread moves one scale.
__global__ void pack_scales_kernel(const std::uint16_t* scales, Shape shape, std::uint16_t* packed) {
  const std::int64_t index = std::int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (index >= shape.scale_count()) return;
  const std::int64_t group = index / kStripRows % shape.packed_groups;
  const std::int64_t strip = index / kStripRows / shape.packed_groups;
  constexpr auto rows = cute::right_inverse(layout::scale_layout());
  const std::int64_t n = shape.source_row(strip * kStripRows + rows(static_cast<int>(index % kStripRows)));
  const bool padding = n >= shape.n || group * shape.packed_group_size >= shape.k;
  packed[index] = padding ? std::uint16_t{0} : scales[shape.source_group(group) * shape.n + n];
}

}  // namespace

int pack_weights_on_device(const std::uint8_t* q, const convert::Coding& coding, const Shape& shape,
                           const std::int32_t* permutation, std::uint8_t* packed, void* stream) {
  const bool wide = shape.activation_bits == 16;
  const auto kernel = coding.bits == 8 ? (wide ? pack_weights_kernel<8, 16> : pack_weights_kernel<8, 8>)
                                       : (wide ? pack_weights_kernel<4, 16> : pack_weights_kernel<4, 8>);
  const auto flip = coding.stored(coding.counted(0));  // canonical codes to stored ones
  kernel<<<blocks_for(shape.weight_bytes() / 4), kThreads, 0, static_cast<cudaStream_t>(stream)>>>(
      q, flip, coding.braided(shape.activation_bits), shape, permutation, reinterpret_cast<std::uint32_t*>(packed));
  return cudaGetLastError();
}

int pack_scales_on_device(const std::uint16_t* scales, const Shape& shape, std::uint16_t* packed, void* stream) {
  pack_scales_kernel<<<blocks_for(shape.scale_count()), kThreads, 0, static_cast<cudaStream_t>(stream)>>>(scales, shape,
                                                                                                          packed);
  return cudaGetLastError();
}

}  // namespace machete::packing
