#pragma once

#include <tvm/ffi/container/tuple.h>
#include <tvm/ffi/optional.h>

#include <cstdint>
#include <string_view>
#include <vector>

#include "machete/weight.h"
#include "native/tensor.h"

/// A QuantizedWeight as torch keeps it: a tensor a part, in CPU memory.
namespace machete::python {

// qweight [N, row bytes], scales [groups, N], zero_points [groups, N] or none, g_idx [K] or none
using Canonical = tvm::ffi::Tuple<Tensor, Tensor, tvm::ffi::Optional<Tensor>, tvm::ffi::Optional<Tensor>>;

/// Parts in canonical form with the sizes and types of `weight`; empty zero points and g_idx are none.
Canonical canonical(const QuantizedWeight& weight, std::vector<std::uint8_t> qweight, std::vector<std::uint8_t> scales,
                    std::vector<std::uint8_t> zero_points, const std::vector<std::int32_t>& g_idx = {});

/// The weight that these tensors are, borrowed; raises where a shape, dtype or device does not fit the rest.
QuantizedWeight borrow_canonical(const TensorView& qweight, const TensorView& scales,
                                 const tvm::ffi::Optional<TensorView>& zero_points,
                                 const tvm::ffi::Optional<TensorView>& g_idx, std::int64_t k,
                                 std::string_view weight_type, std::int64_t group_size);

}  // namespace machete::python
