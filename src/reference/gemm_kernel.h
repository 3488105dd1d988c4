// The body of gemm_baseline.cpp, gemm_avx2.cpp and gemm_avx512.cpp, which define MACHETE_GEMM_NAMESPACE and give Eigen
// another name. Calls nothing of the standard library, whose templates would be shared between the three.

#include <omp.h>

#include <cstdint>

#define EIGEN_DONT_PARALLELIZE
#include <Eigen/Core>

#include "kernels/convert/braid.h"
#include "reference/epilogue.h"
#include "reference/gemm.h"
#include "reference/numeric.h"

namespace machete::reference::MACHETE_GEMM_NAMESPACE {
namespace {

constexpr int kTileBytes = PackedOrder::kTileBytes;
constexpr int kStripRows = PackedOrder::kStripRows;

// A panel is what a thread decodes and multiplies at a time; a task is what it computes between two looks at the work
// left. The activations of a task are converted once for all its panels.
constexpr int kBlockM = 64;
constexpr int kPanelN = 64;  // packed weights are padded to whole panels
constexpr int kTaskPanels = 4;
constexpr int kBlockK = 256;
constexpr int kUnitK = 64;   // packed weights are padded to such: one tile of 4 bits or two of 8
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
    case DataType::kU8:
    case DataType::kE4m3:
    case DataType::kE8m0:
    case DataType::kS8:
      return;  // never packed
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
    case DataType::kE4m3:
      for (std::int64_t i = 0; i < count; ++i) from_float(type, base, first + i, values[i]);
      return;
    case DataType::kU8:
    case DataType::kE8m0:
    case DataType::kS8:
      return;
  }
}

// Activations of rows m0..., from k0 on, in the order of the packed weights; zero beyond K.
void load_activations(const GemmArguments& x, std::int64_t m0, std::int64_t rows, std::int64_t k0, std::int64_t depth,
                      float* out /* [rows, kBlockK] */) {
  alignas(64) float natural[kBlockK];
  const int tile_k = x.order->tile_k;
  const std::int64_t count = smaller(depth, x.k - k0);
  for (std::int64_t k = count; k < depth; ++k) natural[k] = 0;
  for (std::int64_t m = 0; m < rows; ++m) {
    const std::int64_t row = (m0 + m) * x.lda;
    if (x.a_values != nullptr) {
      const auto* codes = static_cast<const std::uint8_t*>(x.a) + row;
      for (std::int64_t k = 0; k < count; ++k) {
        natural[k] = x.a_values[codes[x.permutation == nullptr ? k0 + k : x.permutation[k0 + k]]];
      }
    } else if (x.permutation == nullptr) {
      load(x.a_type, x.a, row + k0, count, natural);
    } else {
      for (std::int64_t k = 0; k < count; ++k) load(x.a_type, x.a, row + x.permutation[k0 + k], 1, natural + k);
    }
    for (std::int64_t k = 0; k < depth; k += tile_k) {
      float* tile = out + m * kBlockK + k;
#pragma omp simd
      for (int place = 0; place < tile_k; ++place) tile[place] = natural[k + x.order->k_of_place[place]];
    }
  }
}

// value = scale * (u - zero), of a row whose tile lies in one group ...
struct OneGroup {
  float scale, zero;
  float operator()(int, float u) const { return scale * (u - zero); }
};
// ... or in several.
struct SomeGroups {
  const float* scale;  // [place]
  const float* zero;
  float operator()(int place, float u) const { return scale[place] * (u - zero[place]); }
};

// Stored codes to what scale and zero point apply to: integers are stored as differences from the middle ...
template <int kBits>
struct Integers {
  float operator()(int code) const { return static_cast<float>(code ^ 1 << (kBits - 1)); }
};
// ... floating-point codes as they are.
struct Table {
  const float* values;
  float operator()(int code) const { return values[code]; }
};

// A run of 64 bytes: rows r and r + 8 of a tile.
template <int kBits, int kRowBytes, class Code, class Value>
inline void decode_run(const std::uint8_t* bytes, const Code& code, const Value& low_value, const Value& high_value,
                       float* low, float* high) {
  if constexpr (kBits == 4) {
#pragma omp simd
    for (int b = 0; b < 64; ++b) {
      const std::int32_t both = bytes[b];
      low[b] = low_value(b, code(both & 15));
      high[b] = high_value(b, code(both >> 4));
    }
  } else {
    for (int part = 0; part < 32 / kRowBytes; ++part) {
#pragma omp simd
      for (int b = 0; b < kRowBytes; ++b) {
        const int place = part * kRowBytes + b;
        low[place] = low_value(place, code(bytes[part * kRowBytes * 2 + b]));
        high[place] = high_value(place, code(bytes[part * kRowBytes * 2 + kRowBytes + b]));
      }
    }
  }
}

inline void unbraid(const std::uint8_t* run, std::uint8_t* nibbles) {
#pragma omp simd
  for (int i = 0; i < 64; i += 4) {
    std::uint32_t word;
    __builtin_memcpy(&word, run + i, 4);
    word = convert::Braid::to_nibbles(word);
    __builtin_memcpy(nibbles + i, &word, 4);
  }
}

// The scales or zero points of a strip in up to four groups.
using Numbers = float[4][kStripRows];

void spread(const Numbers& groups, int place_of_row, const std::int32_t* group_of_place, int tile_k, float* out) {
  const float numbers[4] = {groups[0][place_of_row], groups[1][place_of_row], groups[2][place_of_row],
                            groups[3][place_of_row]};
#pragma omp simd
  for (int place = 0; place < tile_k; ++place) out[place] = numbers[group_of_place[place]];
}

// One strip of 16 rows, from k0 on: scale * (u - zero), exactly for integer zero points.
template <int kBits, int kRowBytes, class Code>
void decode_strip(const GemmArguments& x, const Code& code, std::int64_t strip, std::int64_t k0, std::int64_t depth,
                  const std::int32_t* group_of_place, float* out /* [16, kBlockK] */) {
  constexpr int kTileK = kTileBytes * 8 / kBits / kStripRows;
  const std::int64_t k_padded = (x.k + kUnitK - 1) / kUnitK * kUnitK;
  const std::uint8_t* bytes = x.weights + (strip * k_padded + k0) / kTileK * kTileBytes;
  const bool split = x.group_size < kTileK;  // several groups a tile
  const std::int64_t at_once = split ? kTileK / x.group_size : 1;
  Numbers scales = {};
  Numbers zeros = {};
  for (auto& group : zeros) {
    for (float& zero : group) zero = x.values == nullptr ? 1 << (kBits - 1) : 0;
  }
  std::int64_t loaded = -1;
  for (std::int64_t k = k0; k < k0 + depth; k += kTileK, out += kTileK) {
    const std::int64_t group = k / x.group_size;
    if (group != loaded) {
      const std::int64_t first = (strip * x.groups + group) * kStripRows;
      load(x.scale_type, x.scales, first, at_once * kStripRows, scales[0]);
      if (x.zero_points != nullptr) load(x.scale_type, x.zero_points, first, at_once * kStripRows, zeros[0]);
      loaded = group;
    }
    for (int row = 0; row < kStripRows / 2; ++row, bytes += 64) {
      float* low = out + row * kBlockK;
      float* high = low + kStripRows / 2 * kBlockK;
      const int low_at = x.order->place_of_scale[row];
      const int high_at = x.order->place_of_scale[row + kStripRows / 2];
      alignas(64) std::uint8_t nibbles[64];
      if (x.braided) unbraid(bytes, nibbles);
      const std::uint8_t* const run = x.braided ? nibbles : bytes;
      if (split) {
        alignas(64) float spreads[4][kTileK];
        spread(scales, low_at, group_of_place, kTileK, spreads[0]);
        spread(zeros, low_at, group_of_place, kTileK, spreads[1]);
        spread(scales, high_at, group_of_place, kTileK, spreads[2]);
        spread(zeros, high_at, group_of_place, kTileK, spreads[3]);
        decode_run<kBits, kRowBytes>(run, code, SomeGroups{spreads[0], spreads[1]}, SomeGroups{spreads[2], spreads[3]},
                                     low, high);
      } else {
        decode_run<kBits, kRowBytes>(run, code, OneGroup{scales[0][low_at], zeros[0][low_at]},
                                     OneGroup{scales[0][high_at], zeros[0][high_at]}, low, high);
      }
    }
  }
}

template <class Code8, class Code4>
void decode(const GemmArguments& x, const Code8& code8, const Code4& code4, std::int64_t strip, std::int64_t k0,
            std::int64_t depth, const std::int32_t* group_of_place, float* out /* [16, kBlockK] */) {
  if (x.bits == 4) {
    decode_strip<4, 8>(x, code4, strip, k0, depth, group_of_place, out);
  } else if (x.order->row_bytes == 8) {
    decode_strip<8, 8>(x, code8, strip, k0, depth, group_of_place, out);
  } else {
    decode_strip<8, 4>(x, code8, strip, k0, depth, group_of_place, out);
  }
}

void decode(const GemmArguments& x, std::int64_t strip, std::int64_t k0, std::int64_t depth,
            const std::int32_t* group_of_place, float* out /* [16, kBlockK] */) {
  if (x.values != nullptr) {
    const Table table{x.values};
    decode(x, table, table, strip, k0, depth, group_of_place, out);
  } else {
    decode(x, Integers<8>{}, Integers<4>{}, strip, k0, depth, group_of_place, out);
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
  std::int32_t group_of_place[PackedOrder::kMaxTileK];
  for (int place = 0; place < x.order->tile_k; ++place) {
    group_of_place[place] = static_cast<std::int32_t>(x.order->k_of_place[place] / x.group_size);
  }
  for (std::int64_t p = 0; p < panels; ++p) {
    MutableRow<float>(scratch.d + p * kBlockM * kPanelN, rows * kPanelN).setZero();
  }
  for (std::int64_t k = 0; k < x.k; k += kBlockK) {
    const std::int64_t depth = smaller(kBlockK, (x.k - k + kUnitK - 1) / kUnitK * kUnitK);
    load_activations(x, m0, rows, k, depth, scratch.a);
    for (std::int64_t p = 0; p < panels; ++p) {
      for (int i = 0; i < kPanelN / kStripRows; ++i) {
        const std::int64_t strip = (panel0 + p) * (kPanelN / kStripRows) + i;
        float* const out = scratch.w + i * kStripRows * kBlockK;
        if (strip < x.strips) {
          decode(x, strip, k, depth, group_of_place, out);
        } else {
          for (int row = 0; row < kStripRows; ++row)
            MutableRow<float>(out + row * kBlockK, depth).setZero();  // padding
        }
      }
      multiply(scratch.a, scratch.w, rows, depth, scratch.d + p * kBlockM * kPanelN);
    }
  }
  for (std::int64_t p = 0; p < panels; ++p) {
    const std::int64_t n0 = (panel0 + p) * kPanelN;
    for (std::int64_t m = 0; m < rows; ++m) {
      float* const values = scratch.d + (p * kBlockM + m) * kPanelN;
      if (x.tensor_scale != 1) MutableRow<float>(values, kPanelN) *= x.tensor_scale;
      const std::int64_t columns = (*x.epilogue)(m0 + m, n0, kPanelN, values);
      store(x.d_type, values, columns, x.d, (m0 + m) * x.ldd + x.epilogue->first_column(n0));
    }
  }
}

}  // namespace

void gemm(const GemmArguments& x) {
  const std::int64_t panels = x.rows / kPanelN;
  const std::int64_t blocks_m = (x.m + kBlockM - 1) / kBlockM;
  // Tasks as large as leave every thread some; what one computes does not depend on its size.
  std::int64_t task_panels = kTaskPanels;
  while (task_panels > 1 && panels * blocks_m < task_panels * 4 * omp_get_max_threads()) task_panels /= 2;
  const std::int64_t tasks_n = (panels + task_panels - 1) / task_panels;
#pragma omp parallel for schedule(dynamic) if (tasks_n * blocks_m > 1)  // waking threads costs more than a tile
  for (std::int64_t task = 0; task < tasks_n * blocks_m; ++task) {
    const std::int64_t panel = task % tasks_n * task_panels;
    run_task(x, task / tasks_n * kBlockM, panel, smaller(task_panels, panels - panel));
  }
}

}  // namespace machete::reference::MACHETE_GEMM_NAMESPACE
