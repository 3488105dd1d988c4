// The body of gemm_baseline.cpp, gemm_avx2.cpp and gemm_avx512.cpp, which define MACHETE_GEMM_NAMESPACE and give Eigen
// another name. Calls nothing of the standard library, whose templates would be shared between the three.

#include <omp.h>

#include <cstdint>

#define EIGEN_DONT_PARALLELIZE
#include <Eigen/Core>

#include "reference/gemm.h"

namespace machete::reference::MACHETE_GEMM_NAMESPACE {
namespace {

constexpr int kTileK = PackedOrder::kTileK;
constexpr int kTileBytes = PackedOrder::kTileBytes;
constexpr int kStripRows = PackedOrder::kStripRows;

// A panel is what a thread decodes and multiplies at a time; a task is what it computes between two looks at the work
// left. The activations of a task are converted once for all its panels.
constexpr int kBlockM = 64;
constexpr int kPanelN = 64;  // packed weights are padded to whole panels
constexpr int kTaskPanels = 4;
constexpr int kBlockK = 256;
constexpr int kVectorM = 4;  // so few tokens are faster as matrix times vector, one by one

template <class T>
using Row = Eigen::Map<const Eigen::Array<T, 1, Eigen::Dynamic>>;
template <class T>
using MutableRow = Eigen::Map<Eigen::Array<T, 1, Eigen::Dynamic>>;
using Block = Eigen::Map<Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>, Eigen::Aligned64,
                         Eigen::OuterStride<>>;

// On the stack, since a run allocates nothing; Eigen's own packing buffers stay below its limit for the stack as well.
struct alignas(64) Scratch {
  float w[kPanelN * kBlockK];
  float a[kBlockM * kBlockK];
  float d[kTaskPanels * kBlockM * kPanelN];
};
static_assert(sizeof(float) * kPanelN * kBlockK <= EIGEN_STACK_ALLOCATION_LIMIT);

inline std::int64_t smaller(std::int64_t a, std::int64_t b) { return a < b ? a : b; }

void load(DataType type, const void* base, std::int64_t first, std::int64_t count, float* out) {
  MutableRow<float> result(out, count);
  switch (type) {
    case DataType::kF16:
      result = Row<Eigen::half>(static_cast<const Eigen::half*>(base) + first, count).cast<float>();
      return;
    case DataType::kBf16:
      result = Row<Eigen::bfloat16>(static_cast<const Eigen::bfloat16*>(base) + first, count).cast<float>();
      return;
    case DataType::kF32:
      result = Row<float>(static_cast<const float*>(base) + first, count);
      return;
  }
}

void store(DataType type, const float* values, std::int64_t count, void* base, std::int64_t first) {
  const Row<float> source(values, count);
  switch (type) {
    case DataType::kF16:
      MutableRow<Eigen::half>(static_cast<Eigen::half*>(base) + first, count) = source.cast<Eigen::half>();
      return;
    case DataType::kBf16:
      MutableRow<Eigen::bfloat16>(static_cast<Eigen::bfloat16*>(base) + first, count) = source.cast<Eigen::bfloat16>();
      return;
    case DataType::kF32:
      MutableRow<float>(static_cast<float*>(base) + first, count) = source;
      return;
  }
}

// Activations of rows m0... and tiles tile0... in the order of the packed weights; zero beyond K.
void load_activations(const GemmArguments& x, std::int64_t m0, std::int64_t rows, std::int64_t tile0,
                      std::int64_t tiles, float* out /* [rows, kBlockK] */) {
  alignas(64) float natural[kBlockK];
  const std::int64_t depth = tiles * kTileK;
  const std::int64_t count = smaller(depth, x.k - tile0 * kTileK);
  for (std::int64_t k = count; k < depth; ++k) natural[k] = 0;
  for (std::int64_t m = 0; m < rows; ++m) {
    load(x.a_type, x.a, (m0 + m) * x.lda + tile0 * kTileK, count, natural);
    for (std::int64_t k = 0; k < depth; k += kTileK) {
      float* tile = out + m * kBlockK + k;
#pragma omp simd
      for (int b = 0; b < kTileK; ++b) tile[b] = natural[k + x.order->k_of_byte[b]];
    }
  }
}

// Each byte's scale, of one row and a tile of several groups.
void spread_scales(const float (&groups)[4][kStripRows], int place, const std::int32_t* group_of_byte, float* out) {
  const float scales[4] = {groups[0][place], groups[1][place], groups[2][place], groups[3][place]};
#pragma omp simd
  for (int b = 0; b < kTileK; ++b) out[b] = scales[group_of_byte[b]];
}

// One strip of 16 rows: scale * (q - 8), exactly.
void decode_strip(const GemmArguments& x, std::int64_t strip, std::int64_t tile0, std::int64_t tiles,
                  const std::int32_t* group_of_byte, float* out /* [16, kBlockK] */) {
  const std::uint8_t* bytes = x.weights + (strip * ((x.k + kTileK - 1) / kTileK) + tile0) * kTileBytes;
  const bool split = x.group_size < kTileK;  // several groups a tile
  float groups[4][kStripRows] = {};
  std::int64_t loaded = -1;
  for (std::int64_t t = 0; t < tiles; ++t, out += kTileK) {
    const std::int64_t group = (tile0 + t) * kTileK / x.group_size;
    if (group != loaded) {
      const std::int64_t count = split ? kTileK / x.group_size : 1;
      load(x.scale_type, x.scales, (strip * x.groups + group) * kStripRows, count * kStripRows, groups[0]);
      loaded = group;
    }
    for (int row = 0; row < kStripRows / 2; ++row, bytes += kTileK) {
      float* low = out + row * kBlockK;
      float* high = low + kStripRows / 2 * kBlockK;
      if (split) {
        alignas(64) float low_scales[kTileK];
        alignas(64) float high_scales[kTileK];
        spread_scales(groups, x.order->place_of_scale[row], group_of_byte, low_scales);
        spread_scales(groups, x.order->place_of_scale[row + kStripRows / 2], group_of_byte, high_scales);
#pragma omp simd
        for (int b = 0; b < kTileK; ++b) {
          const std::int32_t both = static_cast<std::int8_t>(bytes[b]);
          low[b] = low_scales[b] * static_cast<float>(((both & 15) ^ 8) - 8);
          high[b] = high_scales[b] * static_cast<float>(both >> 4);
        }
      } else {
        const float low_scale = groups[0][x.order->place_of_scale[row]];
        const float high_scale = groups[0][x.order->place_of_scale[row + kStripRows / 2]];
#pragma omp simd
        for (int b = 0; b < kTileK; ++b) {
          const std::int32_t both = static_cast<std::int8_t>(bytes[b]);
          low[b] = low_scale * static_cast<float>(((both & 15) ^ 8) - 8);
          high[b] = high_scale * static_cast<float>(both >> 4);
        }
      }
    }
  }
}

// d [rows, kPanelN] += a [rows, depth] * w [kPanelN, depth]^T
void multiply(float* a, float* w, std::int64_t rows, std::int64_t depth, float* d) {
  const Block weights(w, kPanelN, depth, Eigen::OuterStride<>(kBlockK));
  const Block activations(a, rows, depth, Eigen::OuterStride<>(kBlockK));
  Block result(d, rows, kPanelN, Eigen::OuterStride<>(kPanelN));
  if (rows > kVectorM) {
    result.noalias() += activations * weights.transpose();
    return;
  }
  for (std::int64_t m = 0; m < rows; ++m) {
    result.row(m).transpose().noalias() += weights * activations.row(m).transpose();
  }
}

// Rows m0... of D, at columns of `panels` panels from the given one.
void run_task(const GemmArguments& x, std::int64_t m0, std::int64_t panel0, std::int64_t panels) {
  Scratch scratch;
  const std::int64_t rows = smaller(kBlockM, x.m - m0);
  std::int32_t group_of_byte[kTileK];
  for (int b = 0; b < kTileK; ++b) {
    group_of_byte[b] = static_cast<std::int32_t>(x.order->k_of_byte[b] / smaller(x.group_size, kTileK));
  }
  for (std::int64_t p = 0; p < panels; ++p) {
    MutableRow<float>(scratch.d + p * kBlockM * kPanelN, rows * kPanelN).setZero();
  }
  const std::int64_t tiles_k = (x.k + kTileK - 1) / kTileK;
  for (std::int64_t tile = 0; tile < tiles_k; tile += kBlockK / kTileK) {
    const std::int64_t tiles = smaller(kBlockK / kTileK, tiles_k - tile);
    load_activations(x, m0, rows, tile, tiles, scratch.a);
    for (std::int64_t p = 0; p < panels; ++p) {
      for (int strip = 0; strip < kPanelN / kStripRows; ++strip) {
        decode_strip(x, (panel0 + p) * (kPanelN / kStripRows) + strip, tile, tiles, group_of_byte,
                     scratch.w + strip * kStripRows * kBlockK);
      }
      multiply(scratch.a, scratch.w, rows, tiles * kTileK, scratch.d + p * kBlockM * kPanelN);
    }
  }
  for (std::int64_t p = 0; p < panels; ++p) {
    const std::int64_t n0 = (panel0 + p) * kPanelN;
    for (std::int64_t m = 0; m < rows; ++m) {
      store(x.d_type, scratch.d + (p * kBlockM + m) * kPanelN, smaller(kPanelN, x.n - n0), x.d, (m0 + m) * x.ldd + n0);
    }
  }
}

}  // namespace

void gemm(const GemmArguments& x) {
  const std::int64_t panels = (x.n + kPanelN - 1) / kPanelN;
  const std::int64_t blocks_m = (x.m + kBlockM - 1) / kBlockM;
  // Tasks as large as leave every thread some; what one computes does not depend on its size.
  std::int64_t task_panels = kTaskPanels;
  while (task_panels > 1 && panels * blocks_m < task_panels * 4 * omp_get_max_threads()) task_panels /= 2;
  const std::int64_t tasks_n = (panels + task_panels - 1) / task_panels;
#pragma omp parallel for schedule(dynamic)
  for (std::int64_t task = 0; task < tasks_n * blocks_m; ++task) {
    const std::int64_t panel = task % tasks_n * task_panels;
    run_task(x, task / tasks_n * kBlockM, panel, smaller(task_panels, panels - panel));
  }
}

}  // namespace machete::reference::MACHETE_GEMM_NAMESPACE
