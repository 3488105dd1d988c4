#pragma once

#include <cstdint>

#include "kernels/prepack/shape.h"

namespace machete::packing {

/// Prepacking on the GPU, byte for byte what host.h does. Device pointers; asynchronous on `stream`; each returns a
/// cudaError_t.
int pack_weights_on_device(const std::uint8_t* q /* [N, ceil(K/2)] */, const Shape& shape, std::uint8_t* packed,
                           void* stream);
int pack_scales_on_device(const std::uint16_t* scales /* [groups, N] */, const Shape& shape, std::uint16_t* packed,
                          void* stream);

}  // namespace machete::packing
