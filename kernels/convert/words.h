#pragma once

#include <cstdint>

namespace machete::convert {

/// A lane's share of 16 rows x 64 k in the order of kernels/layout: of 4 bits, word `step` is a k16 step; of 8, word
/// step / 2 * 4 + step % 2 is the row of a0 and a2, the one two further on the row 8 below.
template <int kBits>
struct Words {
  std::uint32_t word[kBits];

#if defined(__CUDACC__)
  __device__ static Words load(const std::uint8_t* tile, int lane) {
    Words words;
#pragma unroll
    for (int i = 0; i < kBits / 4; ++i) {
      const uint4 part = reinterpret_cast<const uint4*>(tile)[i * 32 + lane];
      words.word[i * 4] = part.x;
      words.word[i * 4 + 1] = part.y;
      words.word[i * 4 + 2] = part.z;
      words.word[i * 4 + 3] = part.w;
    }
    return words;
  }
#endif
};

/// Of types whose zero point is implied.
struct WithoutZeroPoints {
  static constexpr bool kZeroPoints = false;
  template <class Element>
  struct Zeros {};
};

}  // namespace machete::convert
