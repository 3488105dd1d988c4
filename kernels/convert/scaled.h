#pragma once

#include <cstdint>
#include <type_traits>

#include "kernels/convert/folded.h"
#include "kernels/convert/pairs.h"
#include "kernels/convert/words.h"

namespace machete::convert {

/// Whether a converter folds scales into its decode.
template <class Converter, class Element, class = void>
inline constexpr bool kFolds = false;
template <class Converter, class Element>
inline constexpr bool kFolds<Converter, Element, std::void_t<decltype(Converter::fold(0u))>> = kIsBf16<Element>;

/// What decodes weights as the GEMM multiplies them: code less zero point exactly, times the scale, rounded once, and
/// that kUnit times. Of the lane's two rows. What integers leave of a zero point (kFractional) is multiplied and
/// rounded by itself.
template <class Converter, class Element, bool kFractional>
class Scaled {
 public:
  static constexpr bool kFolds = convert::kFolds<Converter, Element>;
  static constexpr float kUnit = kFolds ? kFoldedUnit : Converter::template kCodeUnit<Element>;

  Scaled() = default;
  /// Pairs, of the upper row and the lower; zero points of types that have them.
  CUTE_HOST_DEVICE Scaled(std::uint32_t scales, std::uint32_t zero_points) {
    if constexpr (kFolds) {
      scales_ = Converter::fold(scales);
    } else {
      scales_ = scales;
      if constexpr (Converter::kZeroPoints) {
        zeros_ = Converter::template zeros<Element, kFractional>(zero_points);
        if constexpr (kFractional) {
          shifts_ = multiply<Element>(scales, Converter::template fractions<Element>(zero_points) ^ 0x80008000u);
        }
      }
    }
  }

  /// A k16 step of a lane's words to the four operand registers.
  CUTE_HOST_DEVICE void decode(const Words<Converter::kBits>& words, int step, std::uint32_t (&a)[4]) const {
    if constexpr (kFolds) {
      Converter::decode_folded(words, step, scales_, a);
    } else {
      Converter::template decode<Element>(words, step, zeros_, a);
      CUTE_UNROLL
      for (int j = 0; j < 4; ++j) {
        const std::uint32_t scale = twice(scales_, j % 2);
        a[j] = kFractional ? multiply_add<Element>(a[j], scale, twice(shifts_, j % 2)) : multiply<Element>(a[j], scale);
      }
    }
  }

 private:
  std::conditional_t<kFolds, FoldedScales, std::uint32_t> scales_;
  std::uint32_t shifts_;
  typename Converter::template Zeros<Element> zeros_;
};

}  // namespace machete::convert
