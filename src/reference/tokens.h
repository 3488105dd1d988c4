#pragma once

#include "machete/tokens.h"

namespace machete::reference {

/// quantize_tokens() in CPU memory, with strides filled in and everything checked.
void quantize_tokens(const TokenQuantization& what, const void* a, void* codes, float* token_scale);

}  // namespace machete::reference
