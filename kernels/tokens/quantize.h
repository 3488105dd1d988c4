#pragma once

#include <cstdint>

#include "machete/tokens.h"

namespace machete::tokens {

/// quantize_tokens() on the current device, with strides filled in and everything checked. Returns a cudaError_t.
int quantize(const TokenQuantization& what, const void* a, void* codes, float* token_scale, bool overlap, void* stream);

}  // namespace machete::tokens
