#pragma once

#include <cutlass/arch/barrier.h>
#include <cutlass/numeric_conversion.h>

#include <cute/arch/copy_sm90.hpp>
#include <cute/tensor.hpp>

namespace machete::epilogue {

using namespace cute;  // NOLINT(google-build-using-namespace)

/// The way of a warpgroup's accumulators to D: rounded in registers, where a lane holds two rows (features) of two
/// tokens; turned by stmatrix, through shared memory laid out [token][64 features], 16 bytes that a token's low bits
/// permute against bank conflicts; then out in 16 bytes a lane, 128 of a token.
///
/// Each warpgroup goes its own way, so that one may store while the other still multiplies.
template <class Config>
struct Staging {
  using Element = typename Config::Element;
  static constexpr int kTokens = Config::kStagingTokens;
  static_assert(kTokens == 16, "one stmatrix a warp");

  Element (*buffers)[kTokens * 64];  // two, in turn
  int warpgroup;
  int lane;      // of the warpgroup
  float factor;  // of every sum: the weight's tensor scale

  /// Calls sink(token of the tile, feature of the tile, eight features) for tokens [0, tokens).
  template <class Accumulators, class Sink>
  __device__ void drain(const Accumulators& accumulators /* ((2,2,BLK_M/8),MMA_N,1) */, int tokens, Sink sink) const {
#pragma unroll
    for (int first = 0; first < Config::kTileM; first += kTokens) {
      if (first >= tokens) break;
#pragma unroll
      for (int atom = 0; atom < Config::kAtoms; ++atom) {
        Element* buffer = buffers[(first / kTokens * Config::kAtoms + atom) % 2];
        write(buffer, accumulators, first, atom);
        // Of two buffers in turn, the one written next was read before this barrier.
        cutlass::arch::NamedBarrier::sync(128, warpgroup);
        const int token = lane / 8;
        const auto* row = reinterpret_cast<const uint4*>(buffer);
        sink(first + token, (atom * Config::kWarpgroups + warpgroup) * 64 + lane % 8 * 8,
             row[token * 8 + (lane % 8 ^ token % 8)]);
      }
    }
    cutlass::arch::NamedBarrier::sync(128, warpgroup);
  }

 private:
  template <class Accumulators>
  __device__ void write(Element* buffer, const Accumulators& accumulators, int first, int atom) const {
    std::uint32_t matrix[4];  // 8 tokens x 8 features each: (octet of tokens, half of the strip)
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int octet = first / 8 + i / 2;
      cutlass::Array<float, 2> pair;
      pair[0] = accumulators(make_coord(_0{}, i % 2, octet), atom, _0{}) * factor;
      pair[1] = accumulators(make_coord(_1{}, i % 2, octet), atom, _0{}) * factor;
      const auto rounded = cutlass::NumericArrayConverter<Element, float, 2>::convert(pair);
      matrix[i] = reinterpret_cast<const std::uint32_t&>(rounded);
    }
    // Lane l gives the address of row l % 8 (a token) of matrix l / 8.
    const int l = lane % 32;
    const int token = l / 16 * 8 + l % 8;
    const int chunk = lane / 32 * 2 + l / 8 % 2;
    auto& row = reinterpret_cast<uint128_t*>(buffer)[token * 8 + (chunk ^ token % 8)];
    SM90_U16x8_STSM_T::copy(matrix[0], matrix[1], matrix[2], matrix[3], row);
  }
};

}  // namespace machete::epilogue
