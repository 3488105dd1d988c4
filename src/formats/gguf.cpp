#include "formats/gguf.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <new>
#include <set>
#include <utility>

namespace machete::formats {
namespace {

constexpr char kMagic[4] = {'G', 'G', 'U', 'F'};
constexpr const char* kAlignmentKey = "general.alignment";
constexpr const char* kSplitKey = "split.count";
constexpr std::uint64_t kLargestAlignment = 1 << 20;
constexpr std::uint32_t kMostDimensions = 4;

/// What stops the parser; caught in parse_gguf().
struct Contradiction {
  std::string message;
};

/// Elements share blocks of so many bytes.
struct Block {
  std::uint32_t number;
  std::string_view dtype;
  int elements;
  int bytes;
};

constexpr std::array kBlocks = {
    Block{0, "F32", 1, 4},         Block{1, "F16", 1, 2},         Block{2, "Q4_0", 32, 18},
    Block{3, "Q4_1", 32, 20},      Block{6, "Q5_0", 32, 22},      Block{7, "Q5_1", 32, 24},
    Block{8, "Q8_0", 32, 34},      Block{9, "Q8_1", 32, 40},      Block{10, "Q2_K", 256, 84},
    Block{11, "Q3_K", 256, 110},   Block{12, "Q4_K", 256, 144},   Block{13, "Q5_K", 256, 176},
    Block{14, "Q6_K", 256, 210},   Block{15, "Q8_K", 256, 292},   Block{16, "IQ2_XXS", 256, 66},
    Block{17, "IQ2_XS", 256, 74},  Block{18, "IQ3_XXS", 256, 98}, Block{19, "IQ1_S", 256, 50},
    Block{20, "IQ4_NL", 32, 18},   Block{21, "IQ3_S", 256, 110},  Block{22, "IQ2_S", 256, 82},
    Block{23, "IQ4_XS", 256, 136}, Block{24, "I8", 1, 1},         Block{25, "I16", 1, 2},
    Block{26, "I32", 1, 4},        Block{27, "I64", 1, 8},        Block{28, "F64", 1, 8},
    Block{29, "IQ1_M", 256, 56},   Block{30, "BF16", 1, 2},       Block{34, "TQ1_0", 256, 54},
    Block{35, "TQ2_0", 256, 66},   Block{39, "MXFP4", 32, 17}};

/// Types of values in the metadata, by number.
enum class Value : std::uint32_t { kU8, kI8, kU16, kI16, kU32, kI32, kF32, kBool, kString, kArray, kU64, kI64, kF64 };
constexpr std::size_t kValueBytes[] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
constexpr std::uint32_t kValueTypes = 13;

/// Reads the header front to back, never beyond the end.
class Cursor {
 public:
  explicit Cursor(const FileBytes& file) : data_(file.data()), size_(file.size()) {}

  std::size_t position() const { return position_; }
  std::size_t left() const { return size_ - position_; }

  const std::uint8_t* take(std::uint64_t bytes) {
    if (bytes > left()) {
      throw Contradiction{
          fmt::format("its header needs {} more bytes at {}, but {} are left; the file is cut short: "
                      "fetch it again",
                      bytes, position_, left())};
    }
    const std::uint8_t* from = data_ + position_;
    position_ += static_cast<std::size_t>(bytes);
    return from;
  }

  template <class T>
  T number() {
    T value = 0;
    std::memcpy(&value, take(sizeof(T)), sizeof(T));
    return value;
  }

  std::string_view string() {
    const auto length = number<std::uint64_t>();
    return {reinterpret_cast<const char*>(take(length)), static_cast<std::size_t>(length)};
  }

  /// How many of something follow, each of `least` bytes or more.
  std::uint64_t count(const char* what, std::size_t least) {
    const auto count = number<std::uint64_t>();
    if (count > left() / least) {
      throw Contradiction{
          fmt::format("it is said to hold {} {}, but {} bytes are left; the file is damaged or cut "
                      "short: fetch it again",
                      count, what, left())};
    }
    return count;
  }

 private:
  const std::uint8_t* data_;
  std::size_t size_;
  std::size_t position_ = 0;
};

Value value_type(Cursor& cursor) {
  const auto type = cursor.number<std::uint32_t>();
  if (type >= kValueTypes) throw Contradiction{fmt::format("values of type {} are unknown", type)};
  return static_cast<Value>(type);
}

void skip_array(Cursor& cursor, int depth) {
  constexpr int kDeepest = 4;
  if (depth > kDeepest) throw Contradiction{fmt::format("arrays nest more than {} deep", kDeepest)};
  const Value type = value_type(cursor);
  const std::size_t bytes = kValueBytes[static_cast<std::size_t>(type)];
  if (bytes != 0) {
    const std::uint64_t count = cursor.count("values", bytes);
    cursor.take(count * bytes);
    return;
  }
  const std::uint64_t count = cursor.count("values", 8);
  for (std::uint64_t i = 0; i < count; ++i) {
    if (type == Value::kString) {
      cursor.string();
    } else {
      skip_array(cursor, depth + 1);
    }
  }
}

/// The next value as text; arrays give none.
std::string read_value(Cursor& cursor) {
  switch (value_type(cursor)) {
    case Value::kU8:
      return fmt::format("{}", cursor.number<std::uint8_t>());
    case Value::kI8:
      return fmt::format("{}", cursor.number<std::int8_t>());
    case Value::kU16:
      return fmt::format("{}", cursor.number<std::uint16_t>());
    case Value::kI16:
      return fmt::format("{}", cursor.number<std::int16_t>());
    case Value::kU32:
      return fmt::format("{}", cursor.number<std::uint32_t>());
    case Value::kI32:
      return fmt::format("{}", cursor.number<std::int32_t>());
    case Value::kF32:
      return fmt::format("{}", cursor.number<float>());
    case Value::kBool:
      return cursor.number<std::uint8_t>() != 0 ? "true" : "false";
    case Value::kString:
      return std::string(cursor.string());
    case Value::kU64:
      return fmt::format("{}", cursor.number<std::uint64_t>());
    case Value::kI64:
      return fmt::format("{}", cursor.number<std::int64_t>());
    case Value::kF64:
      return fmt::format("{}", cursor.number<double>());
    case Value::kArray:
      skip_array(cursor, 1);
      break;
  }
  return "";
}

struct Header {
  Metadata metadata;
  std::uint64_t alignment = 32;
};

void read_entry(Cursor& cursor, const std::string& key, Header& header) {
  if (key == kAlignmentKey) {
    if (value_type(cursor) != Value::kU32) throw Contradiction{"must be an unsigned integer of 32 bits"};
    header.alignment = cursor.number<std::uint32_t>();
    const bool power = header.alignment != 0 && (header.alignment & (header.alignment - 1)) == 0;
    if (!power || header.alignment > kLargestAlignment) {
      throw Contradiction{
          fmt::format("is {}; it must be a power of two, at most {}", header.alignment, kLargestAlignment)};
    }
    header.metadata["gguf." + key] = fmt::format("{}", header.alignment);
    return;
  }
  std::string value = read_value(cursor);
  if (key == kSplitKey && value != "0" && value != "1") {
    throw Contradiction{
        fmt::format("is {}: this file is one of several; join them first (llama-gguf-split --merge)", quote(value))};
  }
  if (!value.empty() && is_utf8(value)) header.metadata["gguf." + key] = std::move(value);
}

void read_metadata(Cursor& cursor, std::uint64_t count, Header& header) {
  std::set<std::string, std::less<>> keys;
  for (std::uint64_t i = 0; i < count; ++i) {
    std::string key(cursor.string());
    if (key.empty() || has_control_characters(key) || !is_utf8(key)) {
      throw Contradiction{fmt::format("key {} must be printable UTF-8", quote(key))};
    }
    if (!keys.insert(key).second) throw Contradiction{fmt::format("key {} occurs twice", quote(key))};
    try {
      read_entry(cursor, key, header);
    } catch (const Contradiction& contradiction) {
      throw Contradiction{fmt::format("key {}: {}", quote(key), contradiction.message)};
    }
  }
}

/// A tensor whose data have not been found yet.
struct Entry {
  Tensor tensor;
  std::uint64_t offset = 0;
};

const Block& block_of(std::uint32_t number) {
  const auto* found =
      std::find_if(kBlocks.begin(), kBlocks.end(), [number](const Block& block) { return block.number == number; });
  if (found == kBlocks.end()) {
    throw Contradiction{
        fmt::format("type {} is unknown: withdrawn from the format, or newer than this reader", number)};
  }
  return *found;
}

/// Everything that follows a tensor's name.
Entry read_entry(Cursor& cursor) {
  Entry entry;
  const auto dimensions = cursor.number<std::uint32_t>();
  if (dimensions > kMostDimensions) {
    throw Contradiction{fmt::format("has {} dimensions; the format allows {}", dimensions, kMostDimensions)};
  }
  std::int64_t elements = 1;
  for (std::uint32_t i = 0; i < dimensions; ++i) {
    const auto size = cursor.number<std::int64_t>();
    if (size < 0)
      throw Contradiction{fmt::format("size {} must be from 0 to 2^63 - 1", static_cast<std::uint64_t>(size))};
    if (__builtin_mul_overflow(elements, size, &elements)) throw Contradiction{"has more than 2^63 elements"};
    entry.tensor.shape.insert(entry.tensor.shape.begin(), size);
  }
  const Block& block = block_of(cursor.number<std::uint32_t>());
  entry.tensor.dtype = std::string(block.dtype);
  const std::int64_t row = dimensions == 0 ? 1 : entry.tensor.shape.back();
  if (row % block.elements != 0) {
    throw Contradiction{
        fmt::format("rows of {} elements; {} needs a multiple of {}", row, block.dtype, block.elements)};
  }
  std::int64_t bytes = 0;
  if (__builtin_mul_overflow(elements / block.elements, std::int64_t{block.bytes}, &bytes)) {
    throw Contradiction{"has more than 2^63 bytes"};
  }
  entry.tensor.bytes = static_cast<std::size_t>(bytes);
  entry.offset = cursor.number<std::uint64_t>();
  return entry;
}

std::vector<Entry> read_entries(Cursor& cursor, std::uint64_t count, std::uint64_t alignment) {
  std::vector<Entry> entries;
  std::set<std::string, std::less<>> names;
  for (std::uint64_t i = 0; i < count; ++i) {
    const std::string name(cursor.string());
    try {
      if (name.empty() || has_control_characters(name) || !is_utf8(name)) {
        throw Contradiction{"the name must be printable UTF-8"};
      }
      if (!names.insert(name).second) throw Contradiction{"the name occurs twice"};
      entries.push_back(read_entry(cursor));
      if (entries.back().offset % alignment != 0) {
        throw Contradiction{
            fmt::format("offset {} is no multiple of the alignment, {}", entries.back().offset, alignment)};
      }
    } catch (const Contradiction& contradiction) {
      throw Contradiction{fmt::format("tensor {}: {}", quote(name), contradiction.message)};
    }
    entries.back().tensor.name = name;
  }
  return entries;
}

/// Tensors must lie within the data and not overlap; gaps between them are padding.
std::vector<Tensor> place(std::vector<Entry> entries, const std::uint8_t* data, std::size_t data_bytes) {
  std::stable_sort(entries.begin(), entries.end(), [](const Entry& a, const Entry& b) {
    return std::pair(a.offset, a.tensor.bytes) < std::pair(b.offset, b.tensor.bytes);
  });
  std::vector<Tensor> tensors;
  std::uint64_t end = 0;
  for (Entry& entry : entries) {
    Tensor& tensor = entry.tensor;
    if (entry.offset > data_bytes || tensor.bytes > data_bytes - entry.offset) {
      throw Contradiction{
          fmt::format("tensor {}: {} bytes at {} reach past the {} bytes of data that the file has; "
                      "fetch it again",
                      quote(tensor.name), tensor.bytes, entry.offset, data_bytes)};
    }
    if (tensor.bytes != 0 && entry.offset < end) {
      throw Contradiction{fmt::format("tensor {}: its data begin at {}, within another's, which end at {}",
                                      quote(tensor.name), entry.offset, end)};
    }
    end = std::max(end, entry.offset + tensor.bytes);
    tensor.data = data + entry.offset;
    tensors.push_back(std::move(tensor));
  }
  return tensors;
}

TensorFile parse(const std::string& path, std::shared_ptr<const FileBytes> file) {
  if (!is_gguf(*file)) throw Contradiction{"this is no GGUF file: it must begin with \"GGUF\""};
  Cursor cursor(*file);
  cursor.take(sizeof(kMagic));
  const auto version = cursor.number<std::uint32_t>();
  if (version != 2 && version != 3) {
    throw Contradiction{
        fmt::format("version {} is not read, versions 2 and 3 are, little-endian; convert it again", version)};
  }
  const std::uint64_t tensor_count = cursor.count("tensors", 24);  // name, dimensions, type, offset
  const std::uint64_t entry_count = cursor.count("keys", 13);      // key, type, value
  Header header;
  read_metadata(cursor, entry_count, header);
  std::vector<Entry> entries = read_entries(cursor, tensor_count, header.alignment);
  const std::uint64_t begin = (cursor.position() + header.alignment - 1) / header.alignment * header.alignment;
  const auto start = static_cast<std::size_t>(std::min<std::uint64_t>(begin, file->size()));
  std::vector<Tensor> tensors = place(std::move(entries), file->data() + start, file->size() - start);
  return {path, std::move(file), std::move(tensors), std::move(header.metadata)};
}

}  // namespace

bool is_gguf(const FileBytes& bytes) {
  return bytes.size() >= sizeof(kMagic) && std::memcmp(bytes.data(), kMagic, sizeof(kMagic)) == 0;
}

Result<TensorFile> parse_gguf(const std::string& path, std::shared_ptr<const FileBytes> bytes) {
  try {
    return parse(path, std::move(bytes));
  } catch (const Contradiction& contradiction) {
    return Status(StatusCode::kCorrupt, fmt::format("{}: {}", path, contradiction.message));
  } catch (const std::bad_alloc&) {
    return Status(StatusCode::kOutOfMemory, fmt::format("{}: too little memory for its header", path));
  }
}

Result<TensorFile> open_gguf(const std::string& path) {
  Result<std::shared_ptr<const FileBytes>> bytes = FileBytes::map(path);
  if (!bytes.ok()) return bytes.status();
  return parse_gguf(path, *std::move(bytes));
}

}  // namespace machete::formats
