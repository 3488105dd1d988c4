/// Few tokens: a thread an element, so that the copy is as short as two loads. More: a CTA takes whole rows through
/// shared memory, since elements fetched one by one cost a sector of 32 bytes each.

#include <algorithm>

#include "kernels/launch.h"
#include "kernels/tokens/arrange.h"

namespace machete::tokens {
namespace {

constexpr int kThreads = 256;
constexpr std::int64_t kFewTokens = 64;
constexpr int kRowThreads = 512;
constexpr std::int64_t kMostRows = 4;   // of a CTA, that share what it reads of the permutation
constexpr int kMostShared = 96 * 1024;  // bytes a CTA; an SM then holds two

struct Params {
  Arrangement what;
  std::int64_t pitch;  // of a row of `out`
  int blocks_of_k;     // few tokens: CTAs a token
  int rows;            // many tokens: rows a CTA
};

__device__ inline std::int64_t source(const Arrangement& what, std::int64_t i) {
  return what.permutation == nullptr ? i : what.permutation[i];
}

__device__ inline void wait_for_activations() {
  asm volatile("griddepcontrol.launch_dependents;");
  asm volatile("griddepcontrol.wait;" ::: "memory");
}

template <class Element>
__global__ void __launch_bounds__(kThreads) arrange_elements(const Params p) {
  const int block = static_cast<int>(blockIdx.x);
  const std::int64_t i = std::int64_t{block % p.blocks_of_k} * kThreads + threadIdx.x;
  const std::int64_t from = i < p.what.k ? source(p.what, i) : 0;
  wait_for_activations();
  if (i >= p.what.k) return;
  const std::int64_t row = block / p.blocks_of_k;
  static_cast<Element*>(p.what.out)[row * p.pitch + i] = static_cast<const Element*>(p.what.a)[row * p.what.lda + from];
}

/// Neighbours that are read and written together: 16 bytes.
template <class Element>
struct alignas(16) Vector {
  static constexpr int kSize = 16 / sizeof(Element);
  Element value[kSize];
};

template <class Element>
__global__ void __launch_bounds__(kRowThreads) arrange_rows(const Params p) {
  using Together = Vector<Element>;
  extern __shared__ uint4 shared[];
  const std::int64_t first = std::int64_t{blockIdx.x} * p.rows;
  const int rows = static_cast<int>(min(std::int64_t{p.rows}, p.what.m - first));
  const int vectors = static_cast<int>(p.what.k) / Together::kSize;  // of a row
  const int own = static_cast<int>(threadIdx.x);
  wait_for_activations();
  for (int row = 0; row < rows; ++row) {
    const auto* a = reinterpret_cast<const uint4*>(static_cast<const Element*>(p.what.a) + (first + row) * p.what.lda);
#pragma unroll 4
    for (int i = own; i < vectors; i += kRowThreads) shared[row * vectors + i] = a[i];
  }
  __syncthreads();
  const auto* staged = reinterpret_cast<const Element*>(shared);  // [rows][K]
  auto* out = static_cast<Element*>(p.what.out) + first * p.pitch;
#pragma unroll 2
  for (int i = own; i < vectors; i += kRowThreads) {
    Vector<std::int32_t> from[Together::kSize / 4];
#pragma unroll
    for (int part = 0; part < Together::kSize / 4; ++part) {
      from[part] = reinterpret_cast<const Vector<std::int32_t>*>(p.what.permutation)[i * (Together::kSize / 4) + part];
    }
    for (int row = 0; row < rows; ++row) {
      Together gathered;
#pragma unroll
      for (int j = 0; j < Together::kSize; ++j) {
        gathered.value[j] = staged[row * static_cast<int>(p.what.k) + from[j / 4].value[j % 4]];
      }
      *reinterpret_cast<Together*>(out + row * p.pitch + i * Together::kSize) = gathered;
    }
  }
}

template <class Element>
int prepare_both() {
  const int status = kernels::prepare(reinterpret_cast<const void*>(&arrange_rows<Element>), kMostShared);
  if (status != 0) return status;
  cudaFuncAttributes attributes = {};
  return cudaFuncGetAttributes(&attributes, arrange_elements<Element>);
}

template <class Element>
int arrange_as(const Arrangement& what, bool overlap, void* stream) {
  const std::int64_t row_bytes = what.k * static_cast<std::int64_t>(sizeof(Element));
  Params params = {what, aligned_row(what.k, sizeof(Element)), kernels::ceil_div(what.k, kThreads), 0};
  const bool vectors = row_bytes % 16 == 0 && what.lda * static_cast<std::int64_t>(sizeof(Element)) % 16 == 0 &&
                       what.permutation != nullptr;
  if (what.m <= kFewTokens || row_bytes > kMostShared || !vectors) {
    const std::int64_t ctas = what.m * params.blocks_of_k;
    if (ctas > 0x7fffffff) return cudaErrorInvalidConfiguration;
    return kernels::launch(&arrange_elements<Element>, params, {static_cast<int>(ctas), kThreads, 0}, overlap, stream);
  }
  constexpr std::int64_t kManyCtas = 512;  // that keep memory busy
  params.rows =
      static_cast<int>(std::clamp<std::int64_t>(std::min(what.m / kManyCtas, kMostShared / row_bytes), 1, kMostRows));
  return kernels::launch(
      &arrange_rows<Element>, params,
      {kernels::ceil_div(what.m, params.rows), kRowThreads, static_cast<int>(params.rows * row_bytes)}, overlap,
      stream);
}

}  // namespace

int prepare_arrange() {
  const int status = prepare_both<std::uint8_t>();
  return status != 0 ? status : prepare_both<std::uint16_t>();
}

int arrange(const Arrangement& what, bool overlap, void* stream) {
  return (what.bytes == 1 ? arrange_as<std::uint8_t> : arrange_as<std::uint16_t>)(what, overlap, stream);
}

}  // namespace machete::tokens
