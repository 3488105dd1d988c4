// find_layers, read_layer, write_layer: the readers and writers of src/formats, over files and over tensors of torch.

#include "formats/checkpoint.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <tvm/ffi/container/array.h>
#include <tvm/ffi/container/tuple.h>
#include <tvm/ffi/function.h>
#include <tvm/ffi/optional.h>
#include <tvm/ffi/string.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "formats/foreign.h"
#include "formats/format_writer.h"
#include "native/canonical.h"
#include "native/status.h"
#include "native/tensor.h"

namespace machete::python {
namespace {

using formats::Checkpoint;
using formats::ForeignLayer;
using tvm::ffi::Array;
using tvm::ffi::Optional;
using tvm::ffi::String;
using tvm::ffi::Tuple;

constexpr const char* kLayer = "layer";  // the name of a layer that is given as tensors

std::string text(const String& string) { return {string.data(), string.size()}; }
String string(std::string_view view) { return std::string(view); }

// Dtypes as files and as DLPack name them.
struct Dtype {
  const char* name;
  std::uint8_t code, bits;
};
constexpr std::array kDtypes = {
    Dtype{"I8", kDLInt, 8},     Dtype{"I32", kDLInt, 32},     Dtype{"I64", kDLInt, 64},
    Dtype{"U8", kDLUInt, 8},    Dtype{"F16", kDLFloat, 16},   Dtype{"F32", kDLFloat, 32},
    Dtype{"F64", kDLFloat, 64}, Dtype{"BF16", kDLBfloat, 16}, Dtype{"F8_E4M3", kDLFloat8_e4m3fn, 8}};

std::string dtype_of(const std::string& name, const TensorView& tensor) {
  for (const Dtype& dtype : kDtypes) {
    if (tensor.dtype().code == dtype.code && tensor.dtype().bits == dtype.bits) return dtype.name;
  }
  raise(StatusCode::kInvalidArgument, fmt::format("tensor {} of {} has no dtype that a quantised layer is made of",
                                                  formats::quote(name), describe(tensor)));
}

DLDataType dlpack_of(const std::string& name) {
  const auto* const found =
      std::find_if(kDtypes.begin(), kDtypes.end(), [&](const Dtype& dtype) { return name == dtype.name; });
  return {found->code, found->bits, 1};
}

formats::Tensor borrow(const std::string& suffix, const TensorView& tensor) {
  check_on_cpu(suffix.c_str(), tensor);
  if (!tensor.IsContiguous()) {
    raise(StatusCode::kInvalidArgument, fmt::format("tensor {} must be contiguous", formats::quote(suffix)));
  }
  formats::Tensor result;
  result.name = fmt::format("{}.{}", kLayer, suffix);
  result.dtype = dtype_of(suffix, tensor);
  for (int i = 0; i < tensor.ndim(); ++i) result.shape.push_back(tensor.size(i));
  result.data = tensor.data_ptr();
  result.bytes = static_cast<std::size_t>(value_of(formats::bytes_of_tensor(result)));
  return result;
}

// name, format, weight type (empty: none), N, K, group_size, act_order, obstacle (empty: none), its tensors
using Found = Tuple<String, String, String, std::int64_t, std::int64_t, std::int64_t, bool, String, Array<String>>;

Array<Found> find_layers(const Array<String>& files) {
  std::vector<std::string> paths;
  for (const String& file : files) paths.push_back(text(file));
  const Checkpoint checkpoint = value_of(Checkpoint::open_files(paths));
  Array<Found> result;
  for (const ForeignLayer& layer : value_of(formats::find_foreign_layers(checkpoint))) {
    Array<String> parts;
    for (const std::string& part : layer.parts) parts.push_back(String(part));
    const bool readable = layer.obstacle.empty();
    result.push_back(Found(String(layer.name), string(layer.format->name), readable ? string(name_of(layer.type)) : "",
                           layer.n, layer.k, layer.group_size, layer.act_order, String(layer.obstacle), parts));
  }
  return result;
}

// format, weight type, K, group_size, the parts
using Layer = Tuple<String, String, std::int64_t, std::int64_t, Canonical>;

// One layer of tensors NAME.SUFFIX; `format` says what the tensors do not show, and must be theirs. Empty: what they
// show.
Layer read_layer(const Array<String>& suffixes, const Array<Tensor>& tensors, const String& format) {
  std::vector<formats::Tensor> given;
  std::vector<std::string> names;
  for (std::size_t i = 0; i < suffixes.size(); ++i) {
    names.push_back(text(suffixes[static_cast<std::int64_t>(i)]));
    given.push_back(borrow(names.back(), TensorView(tensors[static_cast<std::int64_t>(i)])));
  }
  const std::string wanted = text(format);
  formats::QuantizationConfig config;
  if (wanted == "awq") config.method = wanted;
  if (wanted == "gptq_v2") config.checkpoint_format = wanted;
  const Checkpoint checkpoint = Checkpoint::of(
      formats::TensorFile("the layer's tensors", formats::FileBytes::of({}), std::move(given), {}), config);
  const std::vector<ForeignLayer> layers = value_of(formats::find_foreign_layers(checkpoint));
  if (layers.size() != 1 || layers[0].name != kLayer) {
    raise(StatusCode::kInvalidArgument,
          fmt::format("the tensors {} make no layer of a known format; GPTQ and AWQ have qweight, qzeros and scales, "
                      "compressed-tensors weight_packed, weight_scale and weight_shape",
                      fmt::join(names, ", ")));
  }
  const ForeignLayer& layer = layers[0];
  if (!wanted.empty() && layer.format->name != wanted) {
    raise(StatusCode::kInvalidArgument,
          fmt::format("format={}, but the tensors are {}'s; name that, or leave it out", wanted, layer.format->name));
  }
  if (!layer.obstacle.empty()) {
    raise(StatusCode::kUnsupported, fmt::format("{}; load the layer with the tool that made it", layer.obstacle));
  }
  auto weight = value_of(formats::read_foreign_layer(checkpoint, layer));
  const QuantizedWeight shape = weight.view();
  if (shape.tensor_scale != 1 || bytes_of(shape.scale_type) == 1) {
    raise(StatusCode::kUnsupported, fmt::format("{} layers have scales that the Python package does not hold yet; use "
                                                "machete convert and the C++ library",
                                                layer.format->name));
  }
  return Layer(string(layer.format->name), string(name_of(layer.type)), layer.k, layer.group_size,
               canonical(shape, std::move(weight.qweight), std::move(weight.scales), std::move(weight.zero_points),
                         weight.g_idx));
}

const formats::FormatWriter& find_writer(const std::string& name) {
  std::vector<std::string_view> names;
  for (const formats::FormatWriter* writer : formats::kAllWriters) {
    if (writer->name == name) return *writer;
    names.push_back(writer->name);
  }
  raise(StatusCode::kInvalidArgument,
        fmt::format("format={} cannot be written; use one of {}", formats::quote(name), fmt::join(names, ", ")));
}

template <class T>
std::vector<T> copy_of(const TensorView& tensor) {
  std::vector<T> result(static_cast<std::size_t>(tensor.numel()) * (tensor.dtype().bits / 8) / sizeof(T));
  if (!result.empty()) std::memcpy(result.data(), tensor.data_ptr(), result.size() * sizeof(T));
  return result;
}

using LayerTensors = Tuple<Array<String>, Array<Tensor>>;

// The suffixes and tensors that a layer of this weight has in a format.
LayerTensors write_layer(TensorView qweight, TensorView scales, Optional<TensorView> zero_points,
                         Optional<TensorView> g_idx, std::int64_t k, const String& weight_type, std::int64_t group_size,
                         const String& format) {
  const formats::FormatWriter& writer = find_writer(text(format));
  const QuantizedWeight given = borrow_canonical(qweight, scales, zero_points, g_idx, k, text(weight_type), group_size);
  formats::QuantizedLayer layer;
  layer.name = kLayer;
  layer.type = given.type;
  layer.n = given.n;
  layer.k = given.k;
  layer.group_size = given.group_size;
  layer.scale_type = given.scale_type;
  layer.zero_point_type = given.zero_point_type;
  layer.act_order = given.g_idx != nullptr;
  reference::QuantizedTensor weight = layer.weight();
  weight.qweight = copy_of<std::uint8_t>(qweight);
  weight.scales = copy_of<std::uint8_t>(scales);
  if (zero_points.has_value()) weight.zero_points = copy_of<std::uint8_t>(*zero_points);
  if (g_idx.has_value()) weight.g_idx = copy_of<std::int32_t>(*g_idx);
  const auto infos = value_of(writer.tensors(layer));
  auto parts = value_of(writer.pack(layer, weight));
  Array<String> suffixes;
  Array<Tensor> tensors;
  for (std::size_t i = 0; i < infos.size(); ++i) {
    const formats::TensorInfo& info = infos[i];
    suffixes.push_back(String(info.name.substr(std::strlen(kLayer) + 1)));
    tensors.push_back(to_tensor(std::move(parts[i]), dlpack_of(info.dtype), info.shape));
  }
  return LayerTensors(suffixes, tensors);
}

}  // namespace

TVM_FFI_DLL_EXPORT_TYPED_FUNC(find_layers, find_layers);
TVM_FFI_DLL_EXPORT_TYPED_FUNC(read_layer, read_layer);
TVM_FFI_DLL_EXPORT_TYPED_FUNC(write_layer, write_layer);

}  // namespace machete::python
