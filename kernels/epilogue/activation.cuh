#pragma once

#include "machete/epilogue.h"

namespace machete::epilogue {

/// x / (1 + exp(-x)), by an exponential that cannot overflow and the reciprocal of a number from 1 to 2: no slow path.
__device__ inline float silu(float x) {
  const float e = expf(-fabsf(x));
  return x * (x < 0 ? e : 1.f) * __fdividef(1.f, 1.f + e);
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

}  // namespace machete::epilogue
