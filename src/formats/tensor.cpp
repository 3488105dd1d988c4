#include "formats/tensor.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <array>
#include <cstring>
#include <nlohmann/json.hpp>
#include <utility>

#include "reference/numeric.h"

namespace machete::formats {
namespace {

struct Dtype {
  std::string_view name;
  int bits;
};

constexpr std::array<Dtype, 20> kDtypes = {
    {{"BOOL", 8},    {"U8", 8},      {"I8", 8},      {"U16", 16}, {"I16", 16},    {"F16", 16},   {"BF16", 16},
     {"U32", 32},    {"I32", 32},    {"F32", 32},    {"U64", 64}, {"I64", 64},    {"F64", 64},   {"C64", 64},
     {"F8_E4M3", 8}, {"F8_E5M2", 8}, {"F8_E8M0", 8}, {"F4", 4},   {"F6_E2M3", 6}, {"F6_E3M2", 6}}};

}  // namespace

int bits_of_dtype(std::string_view dtype) {
  for (const Dtype& known : kDtypes) {
    if (known.name == dtype) return known.bits;
  }
  return 0;
}

std::string_view dtype_of(DataType type) {
  switch (type) {
    case DataType::kF16:
      return "F16";
    case DataType::kBf16:
      return "BF16";
    case DataType::kF32:
      return "F32";
    case DataType::kU8:
    case DataType::kE8m0:
      return "U8";
    case DataType::kE4m3:
      return "F8_E4M3";
    case DataType::kS8:
      return "I8";
  }
  return "";
}

std::optional<DataType> data_type_of(std::string_view dtype) {
  for (DataType type : {DataType::kF16, DataType::kBf16, DataType::kF32}) {
    if (dtype_of(type) == dtype) return type;
  }
  return std::nullopt;
}

bool is_floating(std::string_view dtype) { return dtype == "F64" || data_type_of(dtype).has_value(); }

Result<std::int64_t> bytes_of_tensor(const TensorInfo& info) {
  const auto error = [&info](const std::string& what) {
    return Status(StatusCode::kCorrupt, fmt::format("tensor {}: {}", quote(info.name), what));
  };
  std::int64_t bits = bits_of_dtype(info.dtype);
  if (bits == 0) {
    std::vector<std::string_view> names;
    names.reserve(kDtypes.size());
    for (const Dtype& known : kDtypes) names.push_back(known.name);
    return error(fmt::format("dtype {} is unknown; known are {}", quote(info.dtype), fmt::join(names, ", ")));
  }
  for (std::int64_t size : info.shape) {
    if (size < 0) return error(fmt::format("shape {} has a negative size; sizes are >= 0", to_string(info.shape)));
    if (__builtin_mul_overflow(bits, size, &bits)) {
      return error(fmt::format("shape {} of {} takes more than 2^63 bits", to_string(info.shape), info.dtype));
    }
  }
  if (bits % 8 != 0) {
    return error(fmt::format("shape {} of {} takes {} bits, which must be a multiple of 8", to_string(info.shape),
                             info.dtype, bits));
  }
  return bits / 8;
}

std::vector<std::uint8_t> copy_bytes(const Tensor& tensor) {
  const auto* bytes = static_cast<const std::uint8_t*>(tensor.data);
  return {bytes, bytes + tensor.bytes};
}

Result<std::vector<float>> to_floats(const Tensor& tensor) {
  if (!is_floating(tensor.dtype)) {
    return Status(StatusCode::kUnsupported, fmt::format("tensor {}: dtype {} must be F64, F32, F16 or BF16",
                                                        quote(tensor.name), quote(tensor.dtype)));
  }
  const std::optional<DataType> type = data_type_of(tensor.dtype);
  const std::size_t element = type ? bytes_of(*type) : sizeof(double);
  const std::size_t count = tensor.bytes / element;
  std::vector<float> values(count);
  if (count == 0) return values;
  if (type == DataType::kF32) {
    std::memcpy(values.data(), tensor.data, tensor.bytes);
  } else if (!type) {  // F64
    const char* from = static_cast<const char*>(tensor.data);
    for (std::size_t i = 0; i < count; ++i) {
      double value = 0;
      std::memcpy(&value, from + i * element, element);
      values[i] = static_cast<float>(value);
    }
  } else {
    std::vector<std::uint16_t> aligned(count);  // the mapped bytes may not be
    std::memcpy(aligned.data(), tensor.data, tensor.bytes);
    reference::to_floats(*type, aligned.data(), 0, static_cast<std::int64_t>(count), values.data());
  }
  return values;
}

std::string to_string(const std::vector<std::int64_t>& shape) { return fmt::format("[{}]", fmt::join(shape, ", ")); }

std::string quote(std::string_view text) {
  constexpr std::size_t kLongest = 200;
  const bool cut = text.size() > kLongest;
  const nlohmann::json string = std::string(text.substr(0, kLongest));
  return string.dump(-1, ' ', /*ensure_ascii=*/true, nlohmann::json::error_handler_t::replace) + (cut ? "..." : "");
}

bool is_utf8(std::string_view text) {
  try {
    return !nlohmann::json(std::string(text)).dump().empty();
  } catch (const nlohmann::json::type_error&) {
    return false;
  }
}

bool has_control_characters(std::string_view text) {
  for (std::size_t i = 0; i < text.size(); ++i) {
    const auto c = static_cast<unsigned char>(text[i]);
    if (c < 0x20 || c == 0x7f) return true;
    // U+0080 ... U+009F, in UTF-8
    if (c == 0xc2 && i + 1 < text.size() && static_cast<unsigned char>(text[i + 1]) < 0xa0) return true;
  }
  return false;
}

}  // namespace machete::formats
