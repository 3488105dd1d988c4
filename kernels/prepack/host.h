#pragma once

#include <cstdint>

#include "kernels/prepack/shape.h"

namespace machete::packing {

/// Prepacking on the CPU; no CUDA is needed. Buffers are sized by Shape. The order is that of kernels/layout.
void pack_weights(const std::uint8_t* q /* [N, ceil(K/2)] */, const Shape& shape, std::uint8_t* packed);
void unpack_weights(const std::uint8_t* packed, const Shape& shape, std::uint8_t* q /* [N, ceil(K/2)] */);

/// 16-bit scales of any type, moved as bits.
void pack_scales(const std::uint16_t* scales /* [groups, N] */, const Shape& shape, std::uint16_t* packed);
void unpack_scales(const std::uint16_t* packed, const Shape& shape, std::uint16_t* scales /* [groups, N] */);

/// The values q - 8 of one strip of 16 rows.
void decode_strip(const std::uint8_t* packed, const Shape& shape, std::int64_t strip,
                  std::int8_t* values /* [16, k_padded] */);

/// Where the scale of (row n, element k) lies among the packed scales.
std::int64_t scale_index(const Shape& shape, std::int64_t n, std::int64_t k);

}  // namespace machete::packing
