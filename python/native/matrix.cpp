#include "native/matrix.h"

namespace machete::python {
namespace {

bool is_aligned(const TensorView& tensor) {
  constexpr std::uintptr_t kCudaAlignment = 16;
  return tensor.device().device_type != kDLCUDA ||
         reinterpret_cast<std::uintptr_t>(tensor.data_ptr()) % kCudaAlignment == 0;
}

}  // namespace

std::optional<Matrix> matrix_of(const TensorView& tensor) {
  const int last = tensor.ndim() - 1;
  if (last < 0) return std::nullopt;
  if (!is_aligned(tensor)) return std::nullopt;
  const std::int64_t* sizes = tensor.shape().data();
  const std::int64_t* strides = tensor.strides().data();
  Matrix matrix = {1, sizes[last], 0};
  bool even = matrix.columns <= 1 || strides[last] == 1;
  for (int i = last - 1; i >= 0; --i) {
    if (sizes[i] == 1) continue;
    if (matrix.rows == 1) matrix.stride = strides[i];
    even = even && strides[i] == matrix.stride * matrix.rows;
    matrix.rows *= sizes[i];
  }
  if (matrix.rows == 0) return Matrix{0, matrix.columns, 0};
  if (!even || (matrix.rows > 1 && matrix.stride < matrix.columns)) return std::nullopt;
  return matrix;
}

bool lies_in_line(const TensorView& tensor) { return tensor.IsContiguous() && is_aligned(tensor); }

}  // namespace machete::python
