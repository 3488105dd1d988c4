#pragma once

#include <tvm/ffi/container/tensor.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "machete/types.h"
#include "machete/weight.h"

namespace machete::python {

using tvm::ffi::Tensor;
using tvm::ffi::TensorView;

/// "bf16 [3, 64]", for error texts.
std::string describe(const TensorView& tensor);

Device device_of(const TensorView& tensor);

/// The library's type of a tensor; raises where it has none.
DataType type_of(const char* name, const TensorView& tensor);

/// Raises unless the tensor lies there.
void check_on_cpu(const char* name, const TensorView& tensor);

/// Raises unless the tensor has this many dimensions and is contiguous.
void check_contiguous(const char* name, const TensorView& tensor, int dimensions);

/// A contiguous tensor in CPU memory that owns the bytes.
Tensor to_tensor(std::vector<std::uint8_t> bytes, DLDataType type, const std::vector<std::int64_t>& shape);

/// So many bytes in CPU memory, aligned as torch's own are, with any contents.
Tensor empty_bytes(std::int64_t size);

DLDataType dlpack_type(DataType type);
inline DLDataType bytes_type() { return {kDLUInt, 8, 1}; }

}  // namespace machete::python
