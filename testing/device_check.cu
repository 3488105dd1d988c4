#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>
#include <math_constants.h>

#include <cmath>
#include <cstdint>
#include <limits>
#include <utility>
#include <vector>

#include "kernels/convert/coding.h"
#include "testing/cuda_status.h"
#include "testing/device_check.h"

namespace machete::testing {
namespace {

// A block of 16 x 16 threads computes 64 x 64 elements of D, each thread 4 x 4 of them, from slices of 16 k's widened
// to fp64 in shared memory. Plain on purpose: nothing here is shared with the kernels under test.
constexpr int kTile = 64;
constexpr int kSlice = 16;
constexpr int kSide = 16;
constexpr int kThreads = kSide * kSide;
constexpr int kEach = kTile / kSide;

struct Operands {
  std::int64_t m, n, k, lda, ldd;
  std::int64_t rows, m_last;  // how many rows are checked: row i is element i * m_last / (rows - 1)
  std::int64_t group_size;
  const void* a;                // [M, K]
  const std::uint8_t* qweight;  // [N, row_bytes]
  const void* scales;           // [groups, N]
  const void* zero_points;      // [groups, N] or null
  const std::int32_t* g_idx;    // [K] or null
  const void* d;                // [M, N]
  DataType a_type, d_type, scale_type, zero_point_type;
  double product;  // product_roundoff()
  bool exact;
  int bits;
  std::int64_t row_bytes;
  double implied_zero, tensor_scale;
  float values[256];  // of the weight's codes
};

// What one block found.
struct Partial {
  double max_ratio;
  std::int64_t m, n;
  double error2, reference2;
};

__device__ double load(DataType type, const void* base, std::int64_t index) {
  switch (type) {
    case DataType::kF16:
      return static_cast<double>(__half2float(static_cast<const __half*>(base)[index]));
    case DataType::kBf16:
      return static_cast<double>(__bfloat162float(static_cast<const __nv_bfloat16*>(base)[index]));
    case DataType::kU8:
      return static_cast<double>(static_cast<const std::uint8_t*>(base)[index]);
    case DataType::kS8:
      return static_cast<double>(static_cast<const std::int8_t*>(base)[index]);
    case DataType::kE4m3:
      return static_cast<double>(static_cast<float>(static_cast<const __nv_fp8_e4m3*>(base)[index]));
    case DataType::kE8m0:
      return ldexp(1.0, static_cast<const std::uint8_t*>(base)[index] - 127);
    default:
      return static_cast<double>(static_cast<const float*>(base)[index]);
  }
}

// Rounded once, to nearest even.
__device__ double round_to(DataType type, double value) {
  switch (type) {
    case DataType::kF16:
      return static_cast<double>(__half2float(__double2half(value)));
    case DataType::kBf16:
      return static_cast<double>(__bfloat162float(__double2bfloat16(value)));
    case DataType::kE4m3:
      return static_cast<double>(static_cast<float>(__nv_fp8_e4m3(value)));  // saturates
    default:
      return static_cast<double>(static_cast<float>(value));
  }
}

__device__ std::int64_t row_of(const Operands& x, std::int64_t i) {
  return x.rows == x.m ? i : (x.rows == 1 ? 0 : i * x.m_last / (x.rows - 1));
}

// A weight, and the square of what may be rounded of it (reference/check.cpp).
struct Weight {
  double value, square;
};

__device__ Weight weight_at(const Operands& x, std::int64_t n, std::int64_t k) {
  const std::uint8_t byte = x.qweight[n * x.row_bytes + k * x.bits / 8];
  const int q = x.bits == 8 ? byte : k % 2 == 0 ? byte & 15 : byte >> 4;
  const std::int64_t group = x.g_idx != nullptr ? x.g_idx[k] : x.group_size < 0 ? 0 : k / x.group_size;
  const double zero =
      x.zero_points == nullptr ? x.implied_zero : load(x.zero_point_type, x.zero_points, group * x.n + n);
  const double scale = x.tensor_scale * load(x.scale_type, x.scales, group * x.n + n);
  const double value = scale * (x.values[q] - zero);
  const double fraction = scale * (zero - nearbyint(zero));
  return {value, value * value + fraction * fraction};
}

__global__ void __launch_bounds__(kThreads) check_tile(Operands x, Partial* partials) {
  __shared__ double s_a[kSlice][kTile + 1];
  __shared__ double s_w[kSlice][kTile + 1];
  __shared__ double s_w2[kSlice][kTile + 1];
  const std::int64_t tile_n = static_cast<std::int64_t>(blockIdx.x) * kTile;
  const std::int64_t tile_m = static_cast<std::int64_t>(blockIdx.y) * kTile;
  const int thread = static_cast<int>(threadIdx.x);
  const int in_n = thread % kSide;  // this thread has columns in_n + 16 j and rows in_m + 16 i of the tile
  const int in_m = thread / kSide;

  double sum[kEach][kEach] = {};
  double sum_aw2[kEach][kEach] = {};
  double sum_a2[kEach] = {};
  for (std::int64_t k0 = 0; k0 < x.k; k0 += kSlice) {
    for (int i = thread; i < kTile * kSlice; i += kThreads) {
      const int in_k = i % kSlice;
      const int in_tile = i / kSlice;
      const std::int64_t k = k0 + in_k;
      const std::int64_t row = tile_m + in_tile;
      const std::int64_t n = tile_n + in_tile;
      s_a[in_k][in_tile] = row < x.rows && k < x.k ? load(x.a_type, x.a, row_of(x, row) * x.lda + k) : 0;
      const Weight weight = n < x.n && k < x.k ? weight_at(x, n, k) : Weight{};
      s_w[in_k][in_tile] = weight.value;
      s_w2[in_k][in_tile] = weight.square;
    }
    __syncthreads();
#pragma unroll
    for (int in_k = 0; in_k < kSlice; ++in_k) {
      double a[kEach];
      double w[kEach];
      double w2[kEach];
#pragma unroll
      for (int i = 0; i < kEach; ++i) a[i] = s_a[in_k][in_m + kSide * i];
#pragma unroll
      for (int j = 0; j < kEach; ++j) w[j] = s_w[in_k][in_n + kSide * j];
#pragma unroll
      for (int j = 0; j < kEach; ++j) w2[j] = s_w2[in_k][in_n + kSide * j];
#pragma unroll
      for (int i = 0; i < kEach; ++i) {
        const double a2 = a[i] * a[i];
        sum_a2[i] += a2;
#pragma unroll
        for (int j = 0; j < kEach; ++j) {
          sum[i][j] += a[i] * w[j];
          sum_aw2[i][j] += a2 * w2[j];
        }
      }
    }
    __syncthreads();
  }

  Partial mine = {-1, -1, -1, 0, 0};
#pragma unroll
  for (int i = 0; i < kEach; ++i) {
#pragma unroll
    for (int j = 0; j < kEach; ++j) {
      const std::int64_t row = tile_m + in_m + kSide * i;
      const std::int64_t n = tile_n + in_n + kSide * j;
      if (row >= x.rows || n >= x.n) continue;
      const std::int64_t m = row_of(x, row);
      const reference::Uncertain due = reference::within_range(
          {sum[i][j], reference::sum_bound(sum_aw2[i][j], sum_a2[i], x.k, x.a_type, x.product)}, x.d_type);
      const double expected = x.exact ? round_to(x.d_type, sum[i][j]) : due.value;
      const double found = load(x.d_type, x.d, m * x.ldd + n);
      const double error = fabs(found - expected);
      double ratio = CUDART_INF;
      if (x.exact) {
        if (found == expected) ratio = 0;
      } else if (isfinite(error)) {
        ratio = error / reference::store_bound(due.error, fabs(expected), x.d_type);
      } else if (found == expected) {
        ratio = 0;
      }
      if (isnan(ratio)) ratio = CUDART_INF;
      if (ratio > mine.max_ratio) mine = {ratio, m, n, mine.error2, mine.reference2};
      mine.error2 += error * error;
      mine.reference2 += expected * expected;
    }
  }

  __shared__ Partial s_partials[kThreads];
  s_partials[thread] = mine;
  for (int half = kThreads / 2; half > 0; half /= 2) {
    __syncthreads();
    if (thread >= half) continue;
    Partial& left = s_partials[thread];
    const Partial& right = s_partials[thread + half];
    if (right.max_ratio > left.max_ratio) left = {right.max_ratio, right.m, right.n, left.error2, left.reference2};
    left.error2 += right.error2;
    left.reference2 += right.reference2;
  }
  if (thread == 0) partials[static_cast<std::int64_t>(blockIdx.y) * gridDim.x + blockIdx.x] = s_partials[0];
}

__global__ void count_padding(const std::uint8_t* d, std::int64_t rows, std::int64_t n, std::int64_t ldd,
                              unsigned long long* count) {
  const std::int64_t gap = ldd - n;
  const std::int64_t step = static_cast<std::int64_t>(gridDim.x) * blockDim.x;
  for (std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < rows * gap; i += step) {
    if (d[i / gap * ldd + n + i % gap] != 0xFF) atomicAdd(count, 1ull);
  }
}

}  // namespace

DeviceErrorReport DeviceCheck::within_bounds(const Problem& problem, const void* a, const QuantizedWeight& weight,
                                             const void* d, const CheckOptions& options) {
  return check(problem, a, weight, d, options, false);
}

DeviceErrorReport DeviceCheck::exact(const Problem& problem, const void* a, const QuantizedWeight& weight,
                                     const void* d, const CheckOptions& options) {
  return check(problem, a, weight, d, options, true);
}

DeviceErrorReport DeviceCheck::check(const Problem& problem, const void* a, const QuantizedWeight& weight,
                                     const void* d, const CheckOptions& options, bool exact) {
  DeviceErrorReport report;
  if (problem.m == 0) {
    report.passed = true;
    return report;
  }
  report.max_ratio = std::numeric_limits<double>::infinity();

  Operands x{};
  x.m = problem.m;
  x.n = problem.n;
  x.k = problem.k;
  x.lda = problem.lda > 0 ? problem.lda : problem.k;
  x.ldd = problem.ldd > 0 ? problem.ldd : problem.n;
  x.rows = options.max_rows > 0 && options.max_rows < problem.m ? options.max_rows : problem.m;
  x.m_last = problem.m - 1;
  x.group_size = weight.group_size;
  x.a = a;
  x.qweight = static_cast<const std::uint8_t*>(weight.qweight);
  x.scales = weight.scales;
  x.zero_points = weight.zero_points;
  x.zero_point_type = weight.zero_point_type;
  x.g_idx = weight.g_idx;
  const convert::Coding coding = convert::coding_of(weight.type);
  x.bits = coding.bits;
  x.row_bytes = weight.row_bytes();
  x.implied_zero = static_cast<double>(coding.implied_zero());
  x.tensor_scale = static_cast<double>(weight.tensor_scale);
  for (int q = 0; q < coding.codes(); ++q) x.values[q] = coding.value(coding.counted(static_cast<std::uint8_t>(q)));
  x.d = d;
  x.a_type = problem.a_type;
  x.product = reference::product_roundoff(problem);
  x.d_type = problem.d_type;
  x.scale_type = weight.scale_type;
  x.exact = exact;

  const dim3 grid(static_cast<unsigned>((x.n + kTile - 1) / kTile),
                  static_cast<unsigned>((x.rows + kTile - 1) / kTile));
  std::vector<Partial> partials(static_cast<std::size_t>(grid.x) * grid.y);
  const std::size_t bytes = partials.size() * sizeof(Partial);
  const auto failed = [&report](Status status) {
    std::swap(report.status, status);
    return report;
  };
  if (Status status = partials_.resize(bytes); !status.ok()) return failed(status);
  check_tile<<<grid, kThreads, 0, options.stream>>>(x, partials_.as<Partial>());
  cudaError_t error = cudaGetLastError();
  if (error == cudaSuccess) {
    error = cudaMemcpyAsync(partials.data(), partials_.data(), bytes, cudaMemcpyDeviceToHost, options.stream);
  }
  if (error == cudaSuccess) error = cudaStreamSynchronize(options.stream);
  if (error != cudaSuccess) return failed(cuda_status(error, "fp64 check"));

  double error2 = 0;
  double reference2 = 0;
  report.max_ratio = -1;
  for (const Partial& partial : partials) {
    error2 += partial.error2;
    reference2 += partial.reference2;
    if (partial.max_ratio > report.max_ratio) {
      report.max_ratio = partial.max_ratio;
      report.worst_m = partial.m;
      report.worst_n = partial.n;
    }
  }
  report.rel_frobenius = reference2 > 0 ? std::sqrt(error2 / reference2) : std::sqrt(error2);
  report.passed = report.max_ratio >= 0 && report.max_ratio <= 1;
  return report;
}

DeviceErrorReport check_linear_on_device(const Problem& problem, const void* a, const QuantizedWeight& weight,
                                         const void* d, const CheckOptions& options) {
  return DeviceCheck().within_bounds(problem, a, weight, d, options);
}

Result<std::int64_t> count_overwritten_padding(DataType type, const void* d, std::int64_t m, std::int64_t n,
                                               std::int64_t ldd, cudaStream_t stream) {
  if (m < 2 || ldd <= n) return std::int64_t{0};
  Result<DeviceBuffer> count = DeviceBuffer::create(sizeof(unsigned long long));
  if (!count.ok()) return count.status();
  if (Status status = count->fill(0, stream); !status.ok()) return status;
  // The last row has no padding: D ends with its last element.
  const auto bytes = static_cast<std::int64_t>(bytes_of(type));
  count_padding<<<64, kThreads, 0, stream>>>(static_cast<const std::uint8_t*>(d), m - 1, n * bytes, ldd * bytes,
                                             count->as<unsigned long long>());
  unsigned long long value = 0;
  cudaError_t error = cudaGetLastError();
  if (error == cudaSuccess) {
    error = cudaMemcpyAsync(&value, count->data(), sizeof(value), cudaMemcpyDeviceToHost, stream);
  }
  if (error == cudaSuccess) error = cudaStreamSynchronize(stream);
  if (error != cudaSuccess) return cuda_status(error, "count overwritten padding");
  return static_cast<std::int64_t>(value);
}

}  // namespace machete::testing
