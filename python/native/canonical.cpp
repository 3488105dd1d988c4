#include "native/canonical.h"

#include <fmt/format.h>

#include <cstring>
#include <utility>

#include "native/status.h"

namespace machete::python {
namespace {

constexpr DLDataType kInt32 = {kDLInt, 32, 1};

void check_shape(const char* name, const TensorView& tensor, std::int64_t rows, std::int64_t columns) {
  check_on_cpu(name, tensor);
  check_contiguous(name, tensor, 2);
  if (tensor.size(0) == rows && tensor.size(1) == columns) return;
  raise(StatusCode::kInvalidArgument,
        fmt::format("{} of {} must be [{}, {}]; see QuantizedWeight", name, describe(tensor), rows, columns));
}

const std::int32_t* borrow_g_idx(const TensorView& g_idx, std::int64_t k) {
  check_on_cpu("g_idx", g_idx);
  check_contiguous("g_idx", g_idx, 1);
  const DLDataType type = g_idx.dtype();
  if (type.code != kInt32.code || type.bits != kInt32.bits || g_idx.size(0) != k) {
    raise(StatusCode::kInvalidArgument,
          fmt::format("g_idx of {} must be s32 [{}], the group of each k", describe(g_idx), k));
  }
  return static_cast<const std::int32_t*>(g_idx.data_ptr());
}

}  // namespace

Canonical canonical(const QuantizedWeight& weight, std::vector<std::uint8_t> qweight, std::vector<std::uint8_t> scales,
                    std::vector<std::uint8_t> zero_points, const std::vector<std::int32_t>& g_idx) {
  const std::int64_t groups = weight.groups();
  tvm::ffi::Optional<Tensor> zeros, order;
  if (!zero_points.empty()) {
    zeros = to_tensor(std::move(zero_points), dlpack_type(weight.zero_point_type), {groups, weight.n});
  }
  if (!g_idx.empty()) {
    std::vector<std::uint8_t> bytes(g_idx.size() * sizeof(std::int32_t));
    std::memcpy(bytes.data(), g_idx.data(), bytes.size());
    order = to_tensor(std::move(bytes), kInt32, {weight.k});
  }
  return Canonical(to_tensor(std::move(qweight), bytes_type(), {weight.n, weight.row_bytes()}),
                   to_tensor(std::move(scales), dlpack_type(weight.scale_type), {groups, weight.n}), zeros, order);
}

QuantizedWeight borrow_canonical(const TensorView& qweight, const TensorView& scales,
                                 const tvm::ffi::Optional<TensorView>& zero_points,
                                 const tvm::ffi::Optional<TensorView>& g_idx, std::int64_t k,
                                 std::string_view weight_type, std::int64_t group_size) {
  check_contiguous("qweight", qweight, 2);
  QuantizedWeight weight;
  weight.type = value_of(parse_weight_type(weight_type));
  weight.n = qweight.size(0);
  weight.k = k;
  weight.group_size = group_size;
  check(packed_header(weight, DataType::kBf16).status());  // before sizes are computed with its numbers

  check_shape("qweight", qweight, weight.n, weight.row_bytes());
  check_shape("scales", scales, weight.groups(), weight.n);
  weight.qweight = qweight.data_ptr();
  weight.scales = scales.data_ptr();
  weight.scale_type = type_of("scales", scales);
  if (zero_points.has_value()) {
    check_shape("zero_points", *zero_points, weight.groups(), weight.n);
    weight.zero_points = (*zero_points).data_ptr();
    weight.zero_point_type = type_of("zero_points", *zero_points);
  }
  if (g_idx.has_value()) weight.g_idx = borrow_g_idx(*g_idx, k);
  return weight;
}

}  // namespace machete::python
