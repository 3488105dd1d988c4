#include "native/tensor.h"

#include <fmt/format.h>

#include <cstdlib>
#include <utility>

#include "native/status.h"

namespace machete::python {
namespace {

bool same(DLDataType a, DLDataType b) { return a.code == b.code && a.bits == b.bits && a.lanes == b.lanes; }

std::string name_of_dtype(DLDataType type) {
  switch (type.code) {
    case kDLBfloat:
      return fmt::format("bf{}", type.bits);
    case kDLFloat:
      return fmt::format("f{}", type.bits);
    case kDLInt:
      return fmt::format("s{}", type.bits);
    case kDLUInt:
      return fmt::format("u{}", type.bits);
    case kDLFloat8_e4m3fn:
      return "e4m3";
    case kDLBool:
      return "bool";
    default:
      return fmt::format("dtype {}:{}", type.code, type.bits);
  }
}

struct Bytes {
  std::vector<std::uint8_t> bytes;
  void AllocData(DLTensor* tensor) { tensor->data = bytes.data(); }  // NOLINT(readability-identifier-naming)
  void FreeData(DLTensor* tensor) { tensor->data = nullptr; }        // NOLINT(readability-identifier-naming)
};

struct AlignedBytes {
  static constexpr std::size_t kAlignment = 64;
  // NOLINTNEXTLINE(readability-identifier-naming)
  void AllocData(DLTensor* tensor) {
    const auto size = static_cast<std::size_t>(tensor->shape[0]);
    tensor->data = std::aligned_alloc(kAlignment, (size + kAlignment - 1) / kAlignment * kAlignment);
    if (tensor->data == nullptr) raise(StatusCode::kOutOfMemory, fmt::format("no memory for {} bytes", size));
  }
  void FreeData(DLTensor* tensor) { std::free(tensor->data); }  // NOLINT(readability-identifier-naming)
};

}  // namespace

Tensor empty_bytes(std::int64_t size) {
  return Tensor::FromNDAlloc(AlignedBytes{}, tvm::ffi::ShapeView(&size, 1), bytes_type(), DLDevice{kDLCPU, 0});
}

std::string describe(const TensorView& tensor) {
  std::string shape;
  for (int i = 0; i < tensor.ndim(); ++i) shape += fmt::format("{}{}", i == 0 ? "" : ", ", tensor.size(i));
  return fmt::format("{} [{}]", name_of_dtype(tensor.dtype()), shape);
}

Device device_of(const TensorView& tensor) {
  const DLDevice device = tensor.device();
  if (device.device_type == kDLCUDA) return Device::cuda(device.device_id);
  if (device.device_type == kDLCPU) return Device::cpu();
  raise(StatusCode::kUnsupported,
        fmt::format("a tensor lies on a device of DLPack type {}; move it to the CPU or a CUDA device",
                    static_cast<int>(device.device_type)));
}

DataType type_of(const char* name, const TensorView& tensor) {
  for (const DataType type :
       {DataType::kBf16, DataType::kF16, DataType::kF32, DataType::kU8, DataType::kS8, DataType::kE4m3}) {
    if (same(tensor.dtype(), dlpack_type(type))) return type;
  }
  raise(StatusCode::kInvalidArgument,
        fmt::format("{} of {} must be bf16, f16, f32, u8, s8 or e4m3; convert it", name, describe(tensor)));
}

void check_on_cpu(const char* name, const TensorView& tensor) {
  if (device_of(tensor) == Device::cpu()) return;
  raise(StatusCode::kInvalidArgument, fmt::format("{} must lie in CPU memory; move it there", name));
}

void check_contiguous(const char* name, const TensorView& tensor, int dimensions) {
  if (tensor.ndim() == dimensions && tensor.IsContiguous()) return;
  raise(StatusCode::kInvalidArgument,
        fmt::format("{} of {} must be contiguous with {} dimensions; reshape it", name, describe(tensor), dimensions));
}

Tensor to_tensor(std::vector<std::uint8_t> bytes, DLDataType type, const std::vector<std::int64_t>& shape) {
  return Tensor::FromNDAlloc(Bytes{std::move(bytes)}, tvm::ffi::ShapeView(shape.data(), shape.size()), type,
                             DLDevice{kDLCPU, 0});
}

DLDataType dlpack_type(DataType type) {
  const auto code = type == DataType::kBf16   ? kDLBfloat
                    : type == DataType::kU8   ? kDLUInt
                    : type == DataType::kS8   ? kDLInt
                    : type == DataType::kE4m3 ? kDLFloat8_e4m3fn
                                              : kDLFloat;
  return {static_cast<std::uint8_t>(code), static_cast<std::uint8_t>(bytes_of(type) * 8), 1};
}

}  // namespace machete::python
