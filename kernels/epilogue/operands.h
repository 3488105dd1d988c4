#pragma once

#include <cstdint>

#include "machete/epilogue.h"

namespace machete::epilogue {

/// What a named epilogue (machete/epilogue.h) reads; null where it has no such step.
struct Operands {
  const float* token_scale;    // [M]
  const float* channel_scale;  // [N]
  const void* bias;            // [N] of the scales' type
  const void* residual;        // [M, columns of D] of the scales' type, rows ldc apart
  std::int64_t ldc;
  const float* output_scale;  // [1]
  Activation activation;

  bool plain() const {
    return token_scale == nullptr && channel_scale == nullptr && bias == nullptr && residual == nullptr &&
           output_scale == nullptr && activation == Activation::kNone;
  }
};

}  // namespace machete::epilogue
