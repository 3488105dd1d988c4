#pragma once

#include <cstdint>

#include "kernels/convert/pairs.h"

namespace machete::convert {

using Bf16 = cutlass::bfloat16_t;

/// What folded scales make of codes, times the weight.
inline constexpr float kFoldedUnit = 0x1p-24f;

/// The scales of a lane's two rows, folded into the decode (Coding::folds_scales): a code that by its bits is a number,
/// if a very small one, needs no more than one instruction to become kFoldedUnit times the weight. The weight is
/// rounded once, since scales times powers of two are exact. They lie in the halves of a register, upper row first,
/// which are modifiers of the instruction's operands.
struct FoldedScales {
  std::uint32_t factors;
  std::uint32_t addends;

  /// Two codes of a row, 0 the upper one, less the zero point.
  CUTE_HOST_DEVICE std::uint32_t operator()(std::uint32_t codes, int row) const {
    return multiply_add<Bf16>(codes, twice(factors, row), twice(addends, row));
  }

  /// The four registers of an operand, of types whose zero is 0.
  CUTE_HOST_DEVICE void multiply_all(std::uint32_t (&a)[4]) const {
    CUTE_UNROLL
    for (int j = 0; j < 4; ++j) a[j] = multiply<Bf16>(a[j], twice(factors, j % 2));
  }
};

}  // namespace machete::convert
