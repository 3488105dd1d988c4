#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>

#include <algorithm>
#include <string>

#include "kernels/convert/coding.h"
#include "testing/cuda_status.h"
#include "testing/random.h"

namespace machete::testing {
namespace {

constexpr int kThreads = 256;

// SplitMix64's finaliser: a different, well mixed word for every (seed, index).
__device__ std::uint64_t hash(std::uint64_t seed, std::uint64_t index) {
  std::uint64_t z = seed * 0xD1342543DE82EF95ull + (index + 1) * 0x9E3779B97F4A7C15ull;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
  return z ^ (z >> 31);
}

// Qweight, scales and activations of one seed have nothing to do with each other.
constexpr std::uint64_t kQweightSalt = 0x51ull << 56;
constexpr std::uint64_t kScaleSalt = 0x5Cull << 56;
constexpr std::uint64_t kZeroSalt = 0x5Eull << 56;

// In [0, 1), from 24 bits of the word.
__device__ float unit(std::uint64_t word) { return static_cast<float>(word >> 40) * 0x1p-24f; }

__device__ void store(__half* out, float value) { *out = __float2half_rn(value); }
__device__ void store(__nv_bfloat16* out, float value) { *out = __float2bfloat16_rn(value); }
__device__ void store(float* out, float value) { *out = value; }
__device__ void store(std::uint8_t* out, float value) { *out = static_cast<std::uint8_t>(value); }
__device__ void store(std::int8_t* out, float value) {
  *out = static_cast<std::int8_t>(__float2int_rn(fminf(fmaxf(value, -128.f), 127.f)));
}
__device__ void store(__nv_fp8_e4m3* out, float value) { *out = __nv_fp8_e4m3(value); }
struct E8m0 {
  std::uint8_t exponent;
};
__device__ void store(E8m0* out, float value) { out->exponent = static_cast<std::uint8_t>(127 + ilogbf(value)); }

struct Activation {
  ActivationFill fill;
  std::uint64_t seed;
  float amplitude;  // of what is not integers: s8 has no others
  __device__ float operator()(std::int64_t row, std::int64_t column, std::int64_t columns) const {
    const std::uint64_t word = hash(seed, static_cast<std::uint64_t>(row * columns + column));
    if (fill == ActivationFill::kIntegers) return static_cast<float>(static_cast<int>((word >> 33) % 5) - 2);
    const float u = unit(word);
    if (fill == ActivationFill::kUniform) return amplitude * (2 * u - 1);
    const float v = unit(word << 24);
    const float normal = amplitude * sqrtf(-2 * logf(1 - u)) * cospif(2 * v);  // Box-Muller
    if (fill == ActivationFill::kNormal) return normal;
    const std::uint64_t kind = hash(~seed, word) % 64;
    return normal * (kind == 0 ? 1000.f : kind <= 4 ? 0x1p-20f : kind <= 8 ? 0x1p-130f : 1.f);
  }
};

struct Identity {
  std::int64_t first_k;
  __device__ float operator()(std::int64_t row, std::int64_t column, std::int64_t) const {
    return column == first_k + row ? 1.0f : 0.0f;
  }
};

struct Scale {
  ScaleFill fill;
  std::uint64_t seed;
  DataType type;
  __device__ float operator()(std::int64_t row, std::int64_t column, std::int64_t columns) const {
    if (fill == ScaleFill::kOne) return 1;
    if (fill == ScaleFill::kBlocks) column /= 128;
    const std::uint64_t word = hash(seed, static_cast<std::uint64_t>(row * columns + column));
    if (fill == ScaleFill::kPowersOfTwo) return exp2f(static_cast<float>(static_cast<int>((word >> 33) % 3) - 1));
    if (type == DataType::kE8m0) return exp2f(static_cast<float>(static_cast<int>((word >> 33) % 12) - 10));
    if (type == DataType::kE4m3) return 0.25f + 1.75f * unit(word);
    // bf16 keeps 8 significant bits, and these values are normal numbers of f16.
    return __bfloat162float(__float2bfloat16_rn(0.004f + 0.026f * unit(word)));
  }
};

struct ZeroPoint {
  int first;
  int count;
  std::uint64_t seed;
  __device__ float operator()(std::int64_t row, std::int64_t column, std::int64_t columns) const {
    const float share = unit(hash(seed, static_cast<std::uint64_t>(row * columns + column)));
    return static_cast<float>(first) + static_cast<float>(count) * share;
  }
};

template <class T, class Make>
__global__ void fill_matrix(T* out, std::int64_t rows, std::int64_t columns, std::int64_t stride, Make make) {
  const std::int64_t step = static_cast<std::int64_t>(gridDim.x) * blockDim.x;
  for (std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < rows * columns;
       i += step) {
    const std::int64_t row = i / columns;
    const std::int64_t column = i % columns;
    store(out + row * stride + column, make(row, column, columns));
  }
}

// Bytes whose bits but the first are at least `end` start anew from 0.
__global__ void fill_bytes(std::uint8_t* out, std::int64_t count, std::uint64_t seed, int end) {
  const std::int64_t step = static_cast<std::int64_t>(gridDim.x) * blockDim.x;
  for (std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < count; i += step) {
    const auto byte = static_cast<std::uint8_t>(hash(seed, static_cast<std::uint64_t>(i)) >> 56);
    out[i] = static_cast<std::uint8_t>((byte & 0x7f) >= end ? byte - end : byte);
  }
}

// Where k stands among all k's, mixed: steps that lose no bit of `bits`, again until it is one of them.
__device__ std::uint32_t mixed(std::uint32_t k, std::uint32_t end, int bits) {
  const std::uint32_t mask = (1u << bits) - 1;
  do {
    for (const std::uint32_t factor : {0x9E3779B1u, 0x85EBCA6Bu, 0xC2B2AE35u}) {
      k = k * factor + 1 & mask;
      k ^= k >> (bits + 1) / 2;
    }
  } while (k >= end);
  return k;
}

// By turns of group_size k's, mixed; what is left of K belongs to the last group.
__global__ void fill_groups(std::int32_t* out, std::int64_t k, std::int64_t group_size, int bits) {
  const std::int64_t i = std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i >= k) return;
  out[i] =
      static_cast<std::int32_t>(mixed(static_cast<std::uint32_t>(i), static_cast<std::uint32_t>(k), bits) / group_size);
}

unsigned blocks_for(std::int64_t elements) {
  return static_cast<unsigned>(std::clamp<std::int64_t>((elements + kThreads - 1) / kThreads, 1, 4096));
}

template <class Make>
Status fill_typed(DataType type, void* out, std::int64_t rows, std::int64_t columns, std::int64_t stride, Make make,
                  cudaStream_t stream) {
  if (rows == 0 || columns == 0) return {};
  const unsigned blocks = blocks_for(rows * columns);
  switch (type) {
    case DataType::kF16:
      fill_matrix<<<blocks, kThreads, 0, stream>>>(static_cast<__half*>(out), rows, columns, stride, make);
      break;
    case DataType::kBf16:
      fill_matrix<<<blocks, kThreads, 0, stream>>>(static_cast<__nv_bfloat16*>(out), rows, columns, stride, make);
      break;
    case DataType::kF32:
      fill_matrix<<<blocks, kThreads, 0, stream>>>(static_cast<float*>(out), rows, columns, stride, make);
      break;
    case DataType::kS8:
      fill_matrix<<<blocks, kThreads, 0, stream>>>(static_cast<std::int8_t*>(out), rows, columns, stride, make);
      break;
    case DataType::kE4m3:
      fill_matrix<<<blocks, kThreads, 0, stream>>>(static_cast<__nv_fp8_e4m3*>(out), rows, columns, stride, make);
      break;
    case DataType::kE8m0:
      fill_matrix<<<blocks, kThreads, 0, stream>>>(static_cast<E8m0*>(out), rows, columns, stride, make);
      break;
    case DataType::kU8:
      return {StatusCode::kInvalidArgument, "test data of u8 are not made here"};
  }
  return launch_status("fill with test data");
}

}  // namespace

Status fill_activations(DataType type, void* a, std::int64_t m, std::int64_t k, std::int64_t lda, ActivationFill fill,
                        std::uint64_t seed, cudaStream_t stream) {
  return fill_typed(type, a, m, k, lda, Activation{fill, seed, type == DataType::kS8 ? 40.f : 1.f}, stream);
}

Status fill_identity(DataType type, void* a, std::int64_t m, std::int64_t k, std::int64_t lda, std::int64_t first_k,
                     cudaStream_t stream) {
  return fill_typed(type, a, m, k, lda, Identity{first_k}, stream);
}

Status fill_qweight(WeightType type, void* qweight, std::int64_t n, std::int64_t k, std::uint64_t seed,
                    cudaStream_t stream) {
  const std::int64_t bytes = n * ((k * bits_of(type) + 7) / 8);
  if (bytes == 0) return {};
  // Of floating-point bytes numbers alone, and none so large that sums leave f16.
  const convert::Coding coding = convert::coding_of(type);
  int end = 128;
  while (!coding.is_integer() && coding.bits == 8 && !(coding.value(end - 1) <= 448)) --end;
  fill_bytes<<<blocks_for(bytes), kThreads, 0, stream>>>(static_cast<std::uint8_t*>(qweight), bytes,
                                                         seed ^ kQweightSalt, end);
  return launch_status("fill with test data");
}

Status fill_scales(DataType type, void* scales, std::int64_t groups, std::int64_t n, ScaleFill fill, std::uint64_t seed,
                   cudaStream_t stream) {
  return fill_typed(type, scales, groups, n, n, Scale{fill, seed ^ kScaleSalt, type}, stream);
}

Status fill_zero_points(DataType type, int bits, void* zero_points, std::int64_t groups, std::int64_t n,
                        std::uint64_t seed, cudaStream_t stream, bool wide) {
  const int codes = 1 << bits;
  const ZeroPoint make{wide ? -2 * codes : 0, wide ? 5 * codes : codes, seed ^ kZeroSalt};
  if (type != DataType::kU8) return fill_typed(type, zero_points, groups, n, n, make, stream);
  fill_matrix<<<blocks_for(groups * n), kThreads, 0, stream>>>(static_cast<std::uint8_t*>(zero_points), groups, n, n,
                                                               make);
  return launch_status("fill with test data");
}

Status fill_g_idx(void* g_idx, std::int64_t k, std::int64_t group_size, cudaStream_t stream) {
  int bits = 1;
  while (std::int64_t{1} << bits < k) ++bits;
  fill_groups<<<static_cast<unsigned>((k + kThreads - 1) / kThreads), kThreads, 0, stream>>>(
      static_cast<std::int32_t*>(g_idx), k, group_size < 0 ? k : group_size, bits);
  return launch_status("fill with test data");
}

}  // namespace machete::testing
