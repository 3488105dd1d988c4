#pragma once

#include <cstdint>

#include "kernels/convert/coding.h"
#include "kernels/prepack/shape.h"

namespace machete::packing {

/// Prepacking on the CPU; no CUDA is needed. Buffers are sized by Shape. The order is that of kernels/layout; before
/// it, packed k's are the `permutation` of the canonical ones, or the same where that is null.
void pack_weights(const std::uint8_t* q /* [N, row_bytes] */, const convert::Coding& coding, const Shape& shape,
                  const std::int32_t* permutation /* [K] */, std::uint8_t* packed);
void unpack_weights(const std::uint8_t* packed, const convert::Coding& coding, const Shape& shape,
                    const std::int32_t* permutation /* [K] */, std::uint8_t* q /* [N, row_bytes] */);

/// 16-bit scales of any type, or zero points, moved as bits.
void pack_scales(const std::uint16_t* scales /* [groups, N] */, const Shape& shape, std::uint16_t* packed);
void unpack_scales(const std::uint16_t* packed, const Shape& shape, std::uint16_t* scales /* [groups, N] */);

/// Where the scale of (row n, element k) lies among the packed scales.
std::int64_t scale_index(const Shape& shape, std::int64_t n, std::int64_t k);

/// A tile's size along K, and where each of its elements, in memory order, belongs.
struct Place {
  std::uint8_t row;
  std::uint8_t k;
};
constexpr int tile_k(int bits) { return 256 / bits; }
const Place* tile_places(int bits, int activation_bits);  // [16 * tile_k(bits)]

}  // namespace machete::packing
