// quantize, prepack, unpack, dequantize, header, save, load: what happens to a weight before and beside running it.

#include "machete/weight.h"

#include <fmt/format.h>
#include <tvm/ffi/container/tuple.h>
#include <tvm/ffi/function.h>
#include <tvm/ffi/optional.h>
#include <tvm/ffi/string.h>

#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "api/validate.h"
#include "native/canonical.h"
#include "native/packed.h"
#include "native/status.h"
#include "native/tensor.h"
#include "reference/dequantize.h"
#include "reference/quantize.h"

namespace machete::python {
namespace {

using tvm::ffi::Optional;
using tvm::ffi::String;
using tvm::ffi::Tuple;

std::string text(const String& string) { return {string.data(), string.size()}; }

// A packed weight as the library unpacks it, its parts still to be pointed at.
QuantizedWeight shape_of(const PackedHeader& header, const UnpackedWeight& unpacked) {
  QuantizedWeight weight;
  weight.type = header.type;
  weight.n = header.n;
  weight.k = header.k;
  weight.group_size = header.group_size;
  weight.scale_type = header.scale_type;
  weight.tensor_scale = header.tensor_scale == 0 ? 1 : header.tensor_scale;
  weight.zero_point_type = unpacked.zero_point_type;
  return weight;
}

// A PackedWeight in CPU memory as one tensor: header, then payload.
Tensor packed_tensor(const PackedWeight& weight) {
  Tensor tensor = empty_bytes(bytes_of(weight.header()));
  auto* const bytes = static_cast<std::byte*>(tensor.data_ptr());
  std::memcpy(bytes, &weight.header(), sizeof(PackedHeader));
  std::memcpy(bytes + sizeof(PackedHeader), weight.weights(), weight.header().payload_bytes());
  return tensor;
}

Canonical quantize(TensorView weight, const String& weight_type, std::int64_t group_size, const String& scale_type,
                   bool search) {
  check_contiguous("weight", weight, 2);
  check_on_cpu("weight", weight);
  if (type_of("weight", weight) != DataType::kF32) {
    raise(StatusCode::kInvalidArgument, fmt::format("weight of {} must be f32; convert it", describe(weight)));
  }
  reference::QuantizeOptions options;
  options.type = value_of(parse_weight_type(text(weight_type)));
  options.group_size = group_size;
  options.scale_type = value_of(parse_data_type(text(scale_type)));
  options.search = search;
  auto tensor = value_of(
      reference::quantize(static_cast<const float*>(weight.data_ptr()), weight.size(0), weight.size(1), options));
  const QuantizedWeight shape = tensor.view();
  return canonical(shape, std::move(tensor.qweight), std::move(tensor.scales), std::move(tensor.zero_points));
}

Tensor prepack(TensorView qweight, TensorView scales, Optional<TensorView> zero_points, Optional<TensorView> g_idx,
               std::int64_t k, const String& weight_type, std::int64_t group_size, const String& scale_type,
               bool round_scales, bool swiglu, int activation_bits) {
  PrepackOptions options;
  options.device = Device::cpu();
  options.scale_type = value_of(parse_data_type(text(scale_type)));
  options.round_scales = round_scales;
  options.swiglu = swiglu;
  options.activation_bits = activation_bits;
  const QuantizedWeight weight =
      borrow_canonical(qweight, scales, zero_points, g_idx, k, text(weight_type), group_size);
  return packed_tensor(value_of(machete::prepack(weight, options)));
}

Canonical unpack(TensorView packed) {
  const PackedWeight weight = borrow(packed);
  auto unpacked = value_of(machete::unpack(weight));
  const QuantizedWeight shape = shape_of(weight.header(), unpacked);
  return canonical(shape, std::move(unpacked.qweight), std::move(unpacked.scales), std::move(unpacked.zero_points),
                   unpacked.g_idx);
}

Tensor dequantize(TensorView packed) {
  const PackedWeight weight = borrow(packed);
  const auto unpacked = value_of(machete::unpack(weight));
  QuantizedWeight view = shape_of(weight.header(), unpacked);
  view.qweight = unpacked.qweight.data();
  view.scales = unpacked.scales.data();
  view.zero_points = unpacked.zero_points.data();
  view.g_idx = unpacked.g_idx.empty() ? nullptr : unpacked.g_idx.data();
  const std::vector<float> values = reference::dequantize(view);
  std::vector<std::uint8_t> bytes(values.size() * sizeof(float));
  std::memcpy(bytes.data(), values.data(), bytes.size());
  return to_tensor(std::move(bytes), dlpack_type(DataType::kF32), {view.n, view.k});
}

// weight_type, scale_type, n, k, group_size, swiglu, activation_bits, and the bytes at the end that are an order of K
using Header = Tuple<String, String, std::int64_t, std::int64_t, std::int64_t, bool, int, std::int64_t>;

Header header(TensorView start, std::int64_t bytes) {
  const PackedHeader h = read_header(start, bytes);
  const auto name = [](auto type) { return String{std::string(name_of(type))}; };
  return Header(name(h.type), name(h.scale_type), h.n, h.k, h.group_size, h.swiglu != 0, int{h.activation_bits},
                static_cast<std::int64_t>(h.permutation_bytes));
}

// The bytes that header() tells of, in CPU memory.
void check_permutation(TensorView bytes, std::int64_t k) {
  check_contiguous("permutation", bytes, 1);
  check_on_cpu("permutation", bytes);
  std::vector<std::int32_t> order(static_cast<std::size_t>(k));
  const std::size_t size = order.size() * sizeof(std::int32_t);
  if (type_of("permutation", bytes) != DataType::kU8 || static_cast<std::size_t>(bytes.numel()) < size) {
    raise(StatusCode::kInvalidArgument,
          fmt::format("permutation of {} must be u8, at least [{}]; take it from a packed "
                      "weight's end",
                      describe(bytes), size));
  }
  std::memcpy(order.data(), bytes.data_ptr(), size);
  check(validate::permutation(order.data(), k));
}

std::int64_t packed_bytes(std::int64_t n, std::int64_t k, const String& weight_type, const String& scale_type,
                          std::int64_t group_size, bool swiglu, int activation_bits) {
  return bytes_of(expected_header(n, k, text(weight_type), text(scale_type), group_size, swiglu, activation_bits));
}

void save(TensorView packed, const String& path) { check(machete::save(borrow(packed), text(path))); }

Tensor load(const String& path) { return packed_tensor(value_of(machete::load(text(path), Device::cpu()))); }

}  // namespace

TVM_FFI_DLL_EXPORT_TYPED_FUNC(quantize, quantize);
TVM_FFI_DLL_EXPORT_TYPED_FUNC(prepack, prepack);
TVM_FFI_DLL_EXPORT_TYPED_FUNC(unpack, unpack);
TVM_FFI_DLL_EXPORT_TYPED_FUNC(dequantize, dequantize);
TVM_FFI_DLL_EXPORT_TYPED_FUNC(header, header);
TVM_FFI_DLL_EXPORT_TYPED_FUNC(check_permutation, check_permutation);
TVM_FFI_DLL_EXPORT_TYPED_FUNC(packed_bytes, packed_bytes);
TVM_FFI_DLL_EXPORT_TYPED_FUNC(save, save);
TVM_FFI_DLL_EXPORT_TYPED_FUNC(load, load);

}  // namespace machete::python
