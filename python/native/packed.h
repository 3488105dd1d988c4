#pragma once

#include <string_view>

#include "machete/weight.h"
#include "native/tensor.h"

/// A PackedWeight as torch keeps it: one uint8 tensor of the header's 128 bytes and the payload, as in its file.
namespace machete::python {

/// The header that such a weight has; raises where no kernel serves it.
PackedHeader expected_header(std::int64_t n, std::int64_t k, std::string_view weight_type, std::string_view scale_type,
                             std::int64_t group_size, bool swiglu, int activation_bits);

/// The header of such a weight whose groups have an order of their own.
PackedHeader act_ordered(PackedHeader header);

std::int64_t bytes_of(const PackedHeader& header);

/// The weight in a tensor, borrowed. In CPU memory its header is read from the tensor and must agree with its size;
/// elsewhere, where reading it would make the host wait, `expected` is taken at its word.
PackedWeight borrow(const TensorView& packed, const PackedHeader& expected);

/// The weight in a tensor in CPU memory, as its header has it.
PackedWeight borrow(const TensorView& packed);

/// The header at the start of a tensor in CPU memory, of a weight that has this many bytes with it.
PackedHeader read_header(const TensorView& start, std::int64_t bytes);

}  // namespace machete::python
