/// A CTA takes a token: it reads the row once, into registers, finds its largest value, and writes codes.

#include <cuda_fp8.h>
#include <cutlass/bfloat16.h>
#include <cutlass/half.h>

#include <type_traits>

#include "kernels/launch.h"
#include "kernels/tokens/quantize.h"
#include "kernels/tokens/scale.h"

namespace machete::tokens {
namespace {

constexpr int kEach = 8;        // elements of a load: 16 bytes
constexpr int kMaxVectors = 4;  // loads of a thread: longer rows take more threads, up to
constexpr int kMaxThreads = 1024;

struct Params {
  const void* a;  // [M, K], rows lda apart
  void* codes;    // [M, K], rows ldc apart
  float* token_scale;
  std::int64_t k, lda, ldc;
  bool overlap;
};

template <class Element>
struct alignas(16) Values {
  Element value[kEach];
};
template <class Code>
struct alignas(8) Codes {
  Code value[kEach];
};

template <class Code>
inline constexpr float kLimit = std::is_same_v<Code, std::int8_t> ? 127.f : 448.f;

template <class Code>
__device__ Code code_of(float scaled) {
  if constexpr (std::is_same_v<Code, std::int8_t>) {
    return static_cast<std::int8_t>(__float2int_rn(scaled));
  } else {
    return Code(scaled);  // to nearest even, saturating
  }
}

/// The largest over the CTA of kThreads, of numbers that are not negative, as bits: their order is that of integers,
/// NaN above all.
template <int kThreads>
__device__ float largest_of_all(float mine) {
  __shared__ unsigned of_warps[kThreads / 32];
  const unsigned of_warp = __reduce_max_sync(~0u, __float_as_uint(mine));
  if (threadIdx.x % 32 == 0) of_warps[threadIdx.x / 32] = of_warp;
  __syncthreads();
  return __uint_as_float(__reduce_max_sync(~0u, of_warps[threadIdx.x % (kThreads / 32)]));
}

__device__ float larger(float a, float b) {
  return __uint_as_float(max(__float_as_uint(a), __float_as_uint(b) & 0x7fffffffu));
}

/// kVectors: of kEach values, a thread; 0 for rows that are longer, or start anywhere, which are read twice.
template <class Element, class Code, int kThreads, int kVectors>
__global__ void __launch_bounds__(kThreads) quantize_kernel(const Params params) {
  if (params.overlap) {
    asm volatile("griddepcontrol.launch_dependents;");
    asm volatile("griddepcontrol.wait;" ::: "memory");
  }
  const std::int64_t token = blockIdx.x;
  const auto* a = static_cast<const Element*>(params.a) + token * params.lda;
  auto* codes = static_cast<Code*>(params.codes) + token * params.ldc;

  Values<Element> row[kVectors > 0 ? kVectors : 1];
  float largest = 0;
  if constexpr (kVectors > 0) {
#pragma unroll
    for (int i = 0; i < kVectors; ++i) {
      const int k = (i * kThreads + static_cast<int>(threadIdx.x)) * kEach;
      row[i] = k < params.k ? *reinterpret_cast<const Values<Element>*>(a + k) : Values<Element>{};
    }
#pragma unroll
    for (int i = 0; i < kVectors; ++i) {
#pragma unroll
      for (int j = 0; j < kEach; ++j) largest = larger(largest, static_cast<float>(row[i].value[j]));
    }
  } else {
    for (std::int64_t k = threadIdx.x; k < params.k; k += kThreads) largest = larger(largest, static_cast<float>(a[k]));
  }

  largest = largest_of_all<kThreads>(largest);
  Scale scale = scale_of(largest, kLimit<Code>);
  const bool finite = isfinite(largest);
  if (!finite) scale.scale = __uint_as_float(0x7fffffffu);
  if (threadIdx.x == 0) params.token_scale[token] = scale.scale;
  const auto quantized = [&](float value) { return code_of<Code>(finite ? value * scale.reciprocal : 0.f); };

  if constexpr (kVectors > 0) {
#pragma unroll
    for (int i = 0; i < kVectors; ++i) {
      const int k = (i * kThreads + static_cast<int>(threadIdx.x)) * kEach;
      if (k >= params.k) break;
      Codes<Code> out;
#pragma unroll
      for (int j = 0; j < kEach; ++j) out.value[j] = quantized(static_cast<float>(row[i].value[j]));
      *reinterpret_cast<Codes<Code>*>(codes + k) = out;
    }
  } else {
    for (std::int64_t k = threadIdx.x; k < params.k; k += kThreads) codes[k] = quantized(static_cast<float>(a[k]));
  }
}

struct Kernel {
  void (*function)(Params);
  int threads;
};

template <class Element, class Code, int kThreads, int kVectors>
constexpr Kernel make_kernel() {
  return {quantize_kernel<Element, Code, kThreads, kVectors>, kThreads};
}

/// For rows of so many vectors; 0: that are no whole number of them.
template <class Element, class Code>
Kernel kernel_for(std::int64_t vectors) {
  if (vectors == 0 || vectors > kMaxVectors * kMaxThreads) return make_kernel<Element, Code, 256, 0>();
  if (vectors <= 256) return make_kernel<Element, Code, 256, 1>();
  if (vectors <= 2 * 256) return make_kernel<Element, Code, 256, 2>();
  if (vectors <= kMaxVectors * 256) return make_kernel<Element, Code, 256, kMaxVectors>();
  if (vectors <= kMaxVectors * 512) return make_kernel<Element, Code, 512, kMaxVectors>();
  return make_kernel<Element, Code, kMaxThreads, kMaxVectors>();
}

Kernel kernel_for(DataType a_type, DataType code_type, std::int64_t vectors) {
  if (a_type == DataType::kBf16) {
    return code_type == DataType::kS8 ? kernel_for<cutlass::bfloat16_t, std::int8_t>(vectors)
                                      : kernel_for<cutlass::bfloat16_t, __nv_fp8_e4m3>(vectors);
  }
  return code_type == DataType::kS8 ? kernel_for<cutlass::half_t, std::int8_t>(vectors)
                                    : kernel_for<cutlass::half_t, __nv_fp8_e4m3>(vectors);
}

}  // namespace

int quantize(const TokenQuantization& what, const void* a, void* codes, float* token_scale, bool overlap,
             void* stream) {
  const bool whole_vectors = what.k % kEach == 0 && what.lda % kEach == 0 && what.ldc % kEach == 0;
  const Kernel kernel = kernel_for(what.a_type, what.code_type, whole_vectors ? what.k / kEach : 0);
  // Loads it, if this is its first launch, which may be captured.
  cudaFuncAttributes attributes = {};
  const cudaError_t error = cudaFuncGetAttributes(&attributes, reinterpret_cast<const void*>(kernel.function));
  if (error != cudaSuccess) return error;
  const Params params = {a, codes, token_scale, what.k, what.lda, what.ldc, overlap};
  return kernels::launch(kernel.function, params, {static_cast<int>(what.m), kernel.threads, 0}, overlap, stream);
}

}  // namespace machete::tokens
