#include "reference/epilogue.h"

#include <algorithm>
#include <cmath>

#include "reference/numeric.h"

namespace machete::reference {
namespace {

float silu(float x) { return x / (1 + std::exp(-x)); }

float apply(Activation activation, float x) {
  constexpr float kSqrtHalf = 0.70710678118654752f;
  constexpr float kSqrtTwoOverPi = 0.79788456080286536f;
  switch (activation) {
    case Activation::kRelu:
      return x < 0 ? 0 : x;  // NaN stays
    case Activation::kSilu:
      return silu(x);
    case Activation::kGelu:
      return 0.5f * x * (1 + std::erf(x * kSqrtHalf));
    case Activation::kGeluTanh:
      return 0.5f * x * (1 + std::tanh(kSqrtTwoOverPi * (x + 0.044715f * x * x * x)));
    case Activation::kNone:
    case Activation::kSwiglu:  // of two
      break;
  }
  return x;
}

}  // namespace

RowEpilogue::RowEpilogue(const Problem& problem, const Arguments& arguments)
    : steps_(problem.epilogue),
      arguments_(arguments),
      n_(problem.n),
      columns_(problem.d_columns()),
      ldc_(problem.ldc > 0 ? problem.ldc : problem.d_columns()),
      type_(problem.scale_type()),
      swiglu_(steps_.activation == Activation::kSwiglu),
      reciprocal_(steps_.output_scale ? 1 / *arguments.output_scale : 1) {}

float RowEpilogue::scaled(std::int64_t m, std::int64_t n, float sum) const {
  if (steps_.token_scale) sum *= arguments_.token_scale[m];
  if (steps_.channel_scale) sum *= arguments_.channel_scale[n];
  if (steps_.bias) sum += to_float(type_, arguments_.bias, n);
  return sum;
}

std::int64_t RowEpilogue::operator()(std::int64_t m, std::int64_t row, std::int64_t count, float* sums) const {
  const std::int64_t first = first_column(row);
  const std::int64_t columns = std::min(swiglu_ ? count / 2 : count, columns_ - first);
  if (steps_.plain()) return columns;
  for (std::int64_t i = 0; i < columns; ++i) {
    const std::int64_t column = first + i;
    float y = 0;
    if (swiglu_) {
      const std::int64_t at = i / 8 * 16 + i % 8;  // packing::Shape::packed_row
      y = silu(scaled(m, column, sums[at])) * scaled(m, n_ / 2 + column, sums[at + 8]);
    } else {
      y = apply(steps_.activation, scaled(m, column, sums[i]));
    }
    if (steps_.residual) y += to_float(type_, arguments_.residual, m * ldc_ + column);
    if (steps_.output_scale) y *= reciprocal_;
    sums[i] = y;
  }
  return columns;
}

}  // namespace machete::reference
