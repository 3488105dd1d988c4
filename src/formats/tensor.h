#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "machete/status.h"
#include "machete/types.h"

namespace machete::formats {

/// What a safetensors file says about a tensor. Dtypes keep the format's names: "F32", "BF16", "U8", "I64", ...
struct TensorInfo {
  std::string name;
  std::string dtype;
  std::vector<std::int64_t> shape;
};

/// A tensor in a mapped file, valid as long as its file or checkpoint. Its bytes may lie at any alignment.
struct Tensor : TensorInfo {
  const void* data = nullptr;
  std::size_t bytes = 0;
};

using Metadata = std::map<std::string, std::string>;

/// Bits an element; 0 for a dtype that does not exist.
int bits_of_dtype(std::string_view dtype);

/// The dtype of a type of ours, and the other way round where there is one.
std::string_view dtype_of(DataType type);
std::optional<DataType> data_type_of(std::string_view dtype);

/// Bytes of the tensor. Errors: unknown dtypes, negative sizes, products beyond 2^63, bits that do not fill a byte.
Result<std::int64_t> bytes_of_tensor(const TensorInfo& info);

/// Whether the elements are real numbers that to_floats() reads: F64, F32, F16 or BF16.
bool is_floating(std::string_view dtype);

/// Its bytes, copied.
std::vector<std::uint8_t> copy_bytes(const Tensor& tensor);

/// The elements as fp32, each F64 rounded once.
Result<std::vector<float>> to_floats(const Tensor& tensor);

/// "[384, 1536]"
std::string to_string(const std::vector<std::int64_t>& shape);

/// A string of foreign origin, fit for a terminal: quoted, escaped, and cut where it is very long.
std::string quote(std::string_view text);

bool is_utf8(std::string_view text);

/// Whether the text holds control characters, which a terminal might obey.
bool has_control_characters(std::string_view text);

}  // namespace machete::formats
