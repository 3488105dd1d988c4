#pragma once

#include <cstdint>
#include <optional>

#include "native/tensor.h"

namespace machete::python {

/// A tensor [..., columns] as a matrix.
struct Matrix {
  std::int64_t rows, columns;
  std::int64_t stride;  // elements between rows; 0, the default, where there is but one or none
};

/// Where it is one that the library takes as it lies: its rows are contiguous, evenly apart, and on a GPU aligned.
std::optional<Matrix> matrix_of(const TensorView& tensor);

/// Whether its elements are next to each other, in order, and on a GPU aligned.
bool lies_in_line(const TensorView& tensor);

}  // namespace machete::python
