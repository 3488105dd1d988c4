#pragma once

#include "machete/epilogue.h"

namespace machete::epilogue {

__device__ inline float exp2_fast(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
__device__ inline float reciprocal_fast(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
inline constexpr float kLog2E = 1.44269504f;

/// x / (1 + exp(-t)). Where the exponential overflows its reciprocal is 0, and what is below 2^-118 may become it.
__device__ inline float gate(float x, float t) { return x * reciprocal_fast(1.f + exp2_fast(-kLog2E * t)); }
__device__ inline float silu(float x) { return gate(x, x); }

/// x / 2 (1 + tanh(u)) = x / (1 + exp(-2 u))
__device__ inline float gelu_tanh(float x) { return gate(x, x * fmaf(0.0713548163f, x * x, 1.59576912f)); }

/// max(x, 0) less |x| times what the normal distribution has beyond |x|, which is Abramowitz and Stegun's 7.1.26, to
/// 0.75e-7.
__device__ inline float gelu(float x) {
  const float y = fminf(fabsf(x), 16.f);  // beyond, nothing is left
  const float t = reciprocal_fast(fmaf(0.231641888f, y, 1.f));
  const float e = exp2_fast(-0.5f * kLog2E * y * y);
  float p = fmaf(0.5307027145f, t, -0.7265760135f);
  p = fmaf(p, t, 0.7107068705f);
  p = fmaf(p, t, -0.142248368f);
  p = fmaf(p, t, 0.127414796f);
  return fmaf(-y * e, p * t, x < 0 ? 0 : x);  // NaN stays
}

/// max(x, 0), but NaN stays.
__device__ inline float relu(float x) {
  float y;
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(y) : "f"(x), "f"(0.f));
  return y;
}

/// Of a kind that is the same for all lanes. As accurate as the contract asks, 2^-20 (docs/numerics.md).
__device__ inline float activate(Activation kind, float x) {
  switch (kind) {
    case Activation::kNone:
      return x;
    case Activation::kRelu:
      return relu(x);
    case Activation::kSilu:
    case Activation::kSwiglu:
      return silu(x);
    case Activation::kGelu:
      return gelu(x);
    case Activation::kGeluTanh:
      return gelu_tanh(x);
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
