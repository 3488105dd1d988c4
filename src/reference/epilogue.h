#pragma once

#include <cstdint>

#include "machete/epilogue.h"
#include "machete/linear.h"
#include "machete/problem.h"

namespace machete::reference {

/// The epilogue of a problem and what it reads, in CPU memory. Arithmetic is fp32, without contraction into fused
/// multiply-adds, so that every instruction set gives the same bits.
class RowEpilogue {
 public:
  RowEpilogue(const Problem& problem, const Arguments& arguments);

  /// Turns the sums of token m, of `count` packed rows from `row` on (multiples of 16), into columns of D, in place.
  /// Returns how many there are; the first is first_column(row).
  std::int64_t operator()(std::int64_t m, std::int64_t row, std::int64_t count, float* sums) const;
  std::int64_t first_column(std::int64_t row) const { return swiglu_ ? row / 2 : row; }

 private:
  float scaled(std::int64_t m, std::int64_t n, float sum) const;

  Epilogue steps_;
  Arguments arguments_;
  std::int64_t n_, columns_, ldc_;
  DataType type_;  // of bias and residual
  bool swiglu_;
  float reciprocal_;  // of the output's scale
};

}  // namespace machete::reference
