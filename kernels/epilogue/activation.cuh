#pragma once

#include "machete/epilogue.h"

namespace machete::epilogue {

/// x / (1 + exp(-x)), by an exponential that cannot overflow and the reciprocal of a number from 1 to 2: no slow path.
/// What is below 2^-118 may become 0.
__device__ inline float silu(float x) {
  constexpr float kLog2E = 1.44269504f;
  float e;
  float reciprocal;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(e) : "f"(-kLog2E * fabsf(x)));
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(reciprocal) : "f"(1.f + e));
  return x * (x < 0 ? e : 1.f) * reciprocal;
}

/// Of a kind that is the same for all lanes. Accurate functions, since the contract allows 2^-20.
__device__ inline float activate(Activation kind, float x) {
  switch (kind) {
    case Activation::kNone:
      return x;
    case Activation::kRelu:
      return x < 0 ? 0 : x;  // NaN stays
    case Activation::kSilu:
    case Activation::kSwiglu:
      return silu(x);
    case Activation::kGelu:
      return 0.5f * x * (1 + erff(x * 0.707106781f));
    case Activation::kGeluTanh:
      return 0.5f * x * (1 + tanhf(0.797884561f * (x + 0.044715f * x * x * x)));
  }
  return x;
}

/// Of several, whose computations interleave: the kind is looked at once.
template <class Numbers>
__device__ void activate(Activation kind, Numbers& x, int count) {
  const auto each = [&](auto function) {
#pragma unroll
    for (int i = 0; i < count; ++i) x[i] = function(x[i]);
  };
  switch (kind) {
    case Activation::kNone:
      return;
    case Activation::kRelu:
      return each([](float v) { return activate(Activation::kRelu, v); });
    case Activation::kSilu:
    case Activation::kSwiglu:
      return each([](float v) { return silu(v); });
    case Activation::kGelu:
      return each([](float v) { return activate(Activation::kGelu, v); });
    case Activation::kGeluTanh:
      return each([](float v) { return activate(Activation::kGeluTanh, v); });
  }
}

}  // namespace machete::epilogue
