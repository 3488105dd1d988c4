#pragma once

#include <cstdint>

#include "kernels/convert/coding.h"
#include "kernels/prepack/shape.h"

namespace machete::packing {

/// Prepacking on the GPU, byte for byte what host.h does. Device pointers; asynchronous on `stream`; each returns a
/// cudaError_t.
int pack_weights_on_device(const std::uint8_t* q /* [N, row_bytes] */, const convert::Coding& coding,
                           const Shape& shape, const std::int32_t* permutation /* [K] or null */, std::uint8_t* packed,
                           void* stream);
/// 16-bit scales of any type, or zero points, moved as bits.
int pack_scales_on_device(const std::uint16_t* scales /* [groups, N] */, const Shape& shape, std::uint16_t* packed,
                          void* stream);

}  // namespace machete::packing
