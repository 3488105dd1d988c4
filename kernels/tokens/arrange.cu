/// Few tokens: a thread an element, so that the copy is as short as two loads, beside whatever fills the SM's shared
/// memory. More: a CTA takes whole rows into shared memory, since elements fetched one by one cost a sector of 32 bytes
/// each, and gathers them, or a part of them, from there.
///
///   A --16 bytes a lane--> [K][rows of the CTA] --a k of all rows a load--> registers --16 bytes a row--> out

#include <algorithm>

#include "kernels/launch.h"
#include "kernels/tokens/arrange.h"

namespace machete::tokens {
namespace {

constexpr std::int64_t kFewTokens = 16;    // up to so many, a thread an element;
constexpr std::int64_t kManyTokens = 264;  // up to so many, a CTA a row at most
constexpr int kThreads = 256;
constexpr int kRowThreads = 512;
constexpr int kSharedOfTwo = 112 * 1024;   // bytes a CTA, of which an SM holds two
constexpr int kMostShared = 224 * 1024;    // bytes a CTA
constexpr std::int64_t kManyCtas = 132;    // for which rows are divided into parts of at least
constexpr std::int64_t kLeastPart = 2048;  // bytes

struct Params {
  Arrangement what;
  std::int64_t pitch;  // of a row of `out`
  int parts;           // CTAs that share a token, or kRows of them
};

__device__ inline void wait_for_activations() {
  asm volatile("griddepcontrol.launch_dependents;");
  asm volatile("griddepcontrol.wait;" ::: "memory");
}

template <class Element>
__global__ void __launch_bounds__(kThreads) arrange_elements(const Params p) {
  const int block = static_cast<int>(blockIdx.x);
  const std::int64_t i = std::int64_t{block % p.parts} * kThreads + threadIdx.x;
  const std::int64_t from = i >= p.what.k ? 0 : p.what.permutation == nullptr ? i : p.what.permutation[i];
  wait_for_activations();
  if (i >= p.what.k) return;
  const std::int64_t row = block / p.parts;
  static_cast<Element*>(p.what.out)[row * p.pitch + i] = static_cast<const Element*>(p.what.a)[row * p.what.lda + from];
}

/// Neighbours that are read and written together.
template <class Element, int kBytes>
struct alignas(kBytes) Vector {
  static constexpr int kSize = kBytes / static_cast<int>(sizeof(Element));
  Element value[kSize];
};

/// The rows of a CTA lie in shared memory k by k, so that one load of one index serves all of them.
template <class Element, int kRows>
__global__ void __launch_bounds__(kRowThreads) arrange_rows(const Params p) {
  using Whole = Vector<Element, 16>;
  using Piece = Vector<Element, 16 / kRows>;                // of a row
  using Column = Vector<Element, sizeof(Element) * kRows>;  // a k of all rows
  struct Indices {
    Vector<std::int32_t, 16> fours[Whole::kSize / 4];
  };
  extern __shared__ uint4 shared[];  // [K][kRows]
  const int block = static_cast<int>(blockIdx.x);
  const int thread = static_cast<int>(threadIdx.x);
  const std::int64_t first = std::int64_t{block / p.parts} * kRows;
  const int rows = static_cast<int>(min(std::int64_t{kRows}, p.what.m - first));
  const int wholes = static_cast<int>(p.what.k) / Whole::kSize;  // of a row
  const int part = block % p.parts;
  const int end = wholes * (part + 1) / p.parts;
  int i = wholes * part / p.parts + thread;
  const auto* permutation = reinterpret_cast<const Indices*>(p.what.permutation);
  Indices from = {};
  if (i < end) from = permutation[i];

  wait_for_activations();
  const auto* a = static_cast<const Element*>(p.what.a) + first * p.what.lda;
#pragma unroll 4
  for (int at = thread; at < wholes * kRows; at += kRowThreads) {
    Piece pieces[kRows];
#pragma unroll
    for (int row = 0; row < kRows; ++row) {
      pieces[row] = reinterpret_cast<const Piece*>(a + min(row, rows - 1) * p.what.lda)[at];
    }
    Whole columns;
#pragma unroll
    for (int j = 0; j < Whole::kSize; ++j) columns.value[j] = pieces[j % kRows].value[j / kRows];
    reinterpret_cast<Whole*>(shared)[at] = columns;
  }
  __syncthreads();

  auto* out = static_cast<Element*>(p.what.out) + first * p.pitch;
  for (; i < end; i += kRowThreads) {
    Column columns[Whole::kSize];
#pragma unroll
    for (int j = 0; j < Whole::kSize; ++j) {
      columns[j] = reinterpret_cast<const Column*>(shared)[from.fours[j / 4].value[j % 4]];
    }
    if (i + kRowThreads < end) from = permutation[i + kRowThreads];
#pragma unroll
    for (int row = 0; row < kRows; ++row) {
      if (row >= rows) break;
      Whole gathered;
#pragma unroll
      for (int j = 0; j < Whole::kSize; ++j) gathered.value[j] = columns[j].value[row];
      reinterpret_cast<Whole*>(out + row * p.pitch)[i] = gathered;
    }
  }
}

template <class Element>
int prepare_all() {
  for (const void* kernel : {reinterpret_cast<const void*>(&arrange_rows<Element, 1>),
                             reinterpret_cast<const void*>(&arrange_rows<Element, 2>),
                             reinterpret_cast<const void*>(&arrange_rows<Element, 4>)}) {
    const int status = kernels::prepare(kernel, kMostShared);
    if (status != 0) return status;
  }
  return kernels::prepare(reinterpret_cast<const void*>(&arrange_elements<Element>), 0);
}

template <class Element>
int arrange_as(const Arrangement& what, bool overlap, void* stream) {
  constexpr std::int64_t kBytes = sizeof(Element);
  const std::int64_t row_bytes = what.k * kBytes;
  Params params = {what, aligned_row(what.k, kBytes), 0};
  const bool vectors = row_bytes % 16 == 0 && what.lda * kBytes % 16 == 0 && what.permutation != nullptr;
  if (what.m <= kFewTokens || row_bytes > kMostShared || !vectors) {
    params.parts = kernels::ceil_div(what.k, kThreads);
    const std::int64_t ctas = what.m * params.parts;
    if (ctas > 0x7fffffff) return cudaErrorInvalidConfiguration;
    return kernels::launch(&arrange_elements<Element>, params, {static_cast<int>(ctas), kThreads, 0}, overlap, stream);
  }
  const auto launch_rows = [&](void (*kernel)(Params), int rows) {
    const int groups = kernels::ceil_div(what.m, rows);
    params.parts = static_cast<int>(std::clamp<std::int64_t>(kManyCtas / groups, 1, row_bytes / kLeastPart + 1));
    return kernels::launch(kernel, params, {groups * params.parts, kRowThreads, static_cast<int>(rows * row_bytes)},
                           overlap, stream);
  };
  if (what.m > kManyTokens && 4 * row_bytes <= kSharedOfTwo) return launch_rows(&arrange_rows<Element, 4>, 4);
  if (what.m > kManyTokens && 2 * row_bytes <= kSharedOfTwo) return launch_rows(&arrange_rows<Element, 2>, 2);
  return launch_rows(&arrange_rows<Element, 1>, 1);
}

}  // namespace

int prepare_arrange() {
  const int status = prepare_all<std::uint8_t>();
  return status != 0 ? status : prepare_all<std::uint16_t>();
}

int arrange(const Arrangement& what, bool overlap, void* stream) {
  return (what.bytes == 1 ? arrange_as<std::uint8_t> : arrange_as<std::uint16_t>)(what, overlap, stream);
}

}  // namespace machete::tokens
