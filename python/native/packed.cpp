#include "native/packed.h"

#include <fmt/format.h>

#include <cstring>
#include <memory>

#include "api/memory.h"
#include "api/validate.h"
#include "native/status.h"

namespace machete::python {
namespace {

constexpr std::size_t kCpuAlignment = 16;  // of the payload: what the CPU backend reads is 16 bits wide at most

void check_bytes(const TensorView& packed) {
  check_contiguous("packed", packed, 1);
  if (packed.dtype().code == kDLUInt && packed.dtype().bits == 8) return;
  raise(StatusCode::kInvalidArgument,
        fmt::format("packed of {} must be u8, a header and a payload; make it with prepack()", describe(packed)));
}

void check_size(std::int64_t bytes, const PackedHeader& header) {
  if (bytes == bytes_of(header)) return;
  raise(StatusCode::kIncompatible,
        fmt::format("packed has {} bytes, but {} weights [{}, {}] with group_size {} take {}; prepack it again", bytes,
                    name_of(header.type), header.n, header.k, header.group_size, bytes_of(header)));
}

PackedWeight weight_in(const TensorView& packed, const PackedHeader& header) {
  const auto* payload = static_cast<const std::byte*>(packed.data_ptr()) + sizeof(PackedHeader);
  const Device device = device_of(packed);
  if (device == Device::cpu()) check(validate::pointer("packed", payload, kCpuAlignment));
  return {header, device, std::shared_ptr<const void>(std::shared_ptr<const void>(), payload)};  // owns nothing
}

}  // namespace

PackedHeader expected_header(std::int64_t n, std::int64_t k, std::string_view weight_type, std::string_view scale_type,
                             std::int64_t group_size, bool swiglu, int activation_bits) {
  QuantizedWeight weight;
  weight.type = value_of(parse_weight_type(weight_type));
  weight.n = n;
  weight.k = k;
  weight.group_size = group_size;
  weight.zero_point_type = DataType::kF16;  // whatever they are: integers, too, are served as such
  return value_of(packed_header(weight, value_of(parse_data_type(scale_type)), swiglu, activation_bits));
}

std::int64_t bytes_of(const PackedHeader& header) {
  return static_cast<std::int64_t>(sizeof(PackedHeader) + header.payload_bytes());
}

PackedHeader act_ordered(PackedHeader header) {
  header.permutation_bytes = memory::padded(static_cast<std::uint64_t>(header.k) * 4);
  return header;
}

PackedWeight borrow(const TensorView& packed, const PackedHeader& expected) {
  if (device_of(packed) == Device::cpu()) return borrow(packed);
  check_bytes(packed);
  check_size(packed.numel(), expected);
  return weight_in(packed, expected);
}

PackedWeight borrow(const TensorView& packed) { return weight_in(packed, read_header(packed, packed.numel())); }

PackedHeader read_header(const TensorView& start, std::int64_t bytes) {
  check_bytes(start);
  if (device_of(start) != Device::cpu()) {
    raise(StatusCode::kInvalidArgument, "packed must lie in CPU memory for its header to be read; move it there");
  }
  PackedHeader header;
  if (start.numel() < static_cast<std::int64_t>(sizeof(header))) {
    raise(StatusCode::kIncompatible, fmt::format("packed has {} bytes, fewer than a header of {}; prepack it again",
                                                 start.numel(), sizeof(header)));
  }
  std::memcpy(&header, start.data_ptr(), sizeof(header));
  check(validate::header(header));
  check_size(bytes, header);
  return header;
}

}  // namespace machete::python
