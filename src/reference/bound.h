#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "machete/linear.h"
#include "machete/problem.h"
#include "machete/weight.h"

#if defined(__CUDACC__)
#define MACHETE_HOST_DEVICE __host__ __device__
#else
#define MACHETE_HOST_DEVICE
#endif

/// The numerical contract as code: q - zero is exact; its product with the scale is rounded at most once, to the
/// compute type; products accumulate in fp32; one rounding at the store.
///
/// Each of these roundings errs by at most u times the value, with a sign as good as random, so their sum over k stays
/// within lambda * u * sqrt(sum of squares) but with probability 2 exp(-lambda² / 2) (Hoeffding): at lambda = 8, one
/// element in 4e13. The worst case, u times the sum of absolute values, grows like K instead of sqrt(K): at K = 4096 it
/// would hide a block of 64 k's that a kernel has dropped. This bound does not.
namespace machete::reference {

/// The unit roundoff: half the distance from 1 to the next number.
MACHETE_HOST_DEVICE inline double unit_roundoff(DataType type) {
  return type == DataType::kBf16   ? 0x1p-8
         : type == DataType::kF16  ? 0x1p-11
         : type == DataType::kE4m3 ? 0x1p-4
                                   : 0x1p-24;
}

/// What a product of an activation and a weight may be off by, relative to all products of its sum: of 16-bit
/// activations by the rounding of the scaled weight; of e4m3 by what Hopper's tensor cores drop of its sum, half of
/// 2^-13 with each k32 step (docs/numerics.md); of s8 by nothing but fp32 arithmetic.
inline double product_roundoff(const Problem& problem) {
  if (problem.a_type != DataType::kE4m3) return unit_roundoff(problem.a_type);
  const bool one_group = problem.group_size <= 0 || problem.group_size >= problem.k;
  const std::int64_t group = one_group ? problem.k : problem.group_size;
  const double kept = problem.fast_accumulation ? static_cast<double>(group) / 32 : 0;  // steps
  return std::max(0x1p-9, kept * 0x1p-14);
}

MACHETE_HOST_DEVICE inline double smallest_subnormal(DataType type) {
  return type == DataType::kBf16 ? 0x1p-133 : type == DataType::kF16 ? 0x1p-24 : 0x1p-149;
}

/// How far one sum may lie from the exact one before it goes through the epilogue. `compute` is the type the scaled
/// weights may be rounded to (that of the activations), `product` the product_roundoff().
MACHETE_HOST_DEVICE inline double sum_bound(double sum_aw2 /* sum over k of (a w)^2 */,
                                            double sum_a2 /* sum over k of a^2 */, std::int64_t k, DataType compute,
                                            double product) {
  constexpr double kLambda = 8;
  // An fp32 sum of K products: MMAs of 16 k's each truncate, and partial sums meet in a reduction.
  const double accumulate = (static_cast<double>(k) / 16 + 16) * 0x1p-23;
  double bound = kLambda * sqrt(sum_aw2) * (product + accumulate);
  // A scaled weight may be subnormal in fp16; it is then rounded to a multiple of 2^-24.
  if (compute == DataType::kF16) bound += kLambda * 0x1p-25 * sqrt(sum_a2);
  return bound;
}

/// A number, and how far from it a right one may lie.
struct Uncertain {
  double value, error;
};

MACHETE_HOST_DEVICE inline double at_most_448(double x) { return x > 448 ? 448 : x < -448 ? -448 : x; }  // NaN stays

/// What the type of the output leaves of a number before it is rounded: e4m3 ends at its largest, and where that is
/// certain there is no error.
MACHETE_HOST_DEVICE inline Uncertain within_range(Uncertain x, DataType output) {
  if (output != DataType::kE4m3) return x;
  const double value = at_most_448(x.value);
  if (x.value - x.value != 0) return {value, 0};  // infinite
  const double above = at_most_448(x.value + x.error) - value;
  const double below = value - at_most_448(x.value - x.error);
  return {value, above > below ? above : below};
}

/// How far an element of D, of type `output`, may lie from the exact one, whose size is `abs_ref` and which may be off
/// by `before` when it is rounded. Of e4m3, whose numbers below 2^-6 are 2^-9 apart, no more than its rounding.
MACHETE_HOST_DEVICE inline double store_bound(double before, double abs_ref, DataType output) {
  const double rounding = unit_roundoff(output) * (abs_ref + before);
  if (output == DataType::kE4m3) return before + (rounding > 0x1p-10 ? rounding : 0x1p-10);
  return before + rounding + smallest_subnormal(output);
}

struct ErrorReport {
  double max_ratio = 0;  // worst |error| / bound; infinite where D is NaN or Inf and should not be
  std::int64_t worst_m = -1, worst_n = -1;
  double rel_frobenius = 0;  // |D - reference| / |reference|
  bool passed = false;       // max_ratio <= 1
};

/// Compares D with the fp64 product of exactly the given numbers, through the problem's epilogue in fp64; `operands`
/// has what that reads, its a, d and weight do not count. Everything lies in CPU memory; sizes and strides are those of
/// the problem. The weight's rows are in their own order, with swiglu [gate; up].
ErrorReport check_linear(const Problem& problem, const void* a, const QuantizedWeight& weight, const void* d,
                         const Arguments& operands = {});

}  // namespace machete::reference
