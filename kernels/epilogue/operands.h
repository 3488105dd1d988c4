#pragma once

#include <cstdint>

#include "machete/epilogue.h"
#include "machete/types.h"

namespace machete::epilogue {

/// Whether D is of the scales' type; f32 and e4m3 are rounded by themselves.
constexpr bool is_16_bits(DataType d_type) { return d_type != DataType::kF32 && d_type != DataType::kE4m3; }

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
