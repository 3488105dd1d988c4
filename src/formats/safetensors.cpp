#include "formats/safetensors.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <limits>
#include <map>
#include <new>
#include <nlohmann/json.hpp>
#include <set>
#include <system_error>
#include <utility>

namespace machete::formats {
namespace {

using Json = nlohmann::json;

constexpr std::size_t kLengthBytes = 8;  // the little-endian length of the header, before it
constexpr const char* kMetadataKey = "__metadata__";

std::string errno_text() { return std::generic_category().message(errno); }

Status io_error(const std::string& path, const char* attempt) {
  return {StatusCode::kIo, fmt::format("{}: cannot {}: {}", path, attempt, errno_text())};
}

std::uint64_t load_length(const std::uint8_t* bytes) {
  std::uint64_t length = 0;
  for (std::size_t i = 0; i < kLengthBytes; ++i) length |= std::uint64_t{bytes[i]} << (8 * i);
  return length;
}

/// What stops the parser; caught in parse_header().
struct Contradiction {
  std::string message;
};

/// JSON that refuses what nlohmann::json lets pass: keys that occur twice, and nesting that no header has.
Json parse_strictly(const char* begin, const char* end) {
  std::vector<std::set<std::string>> keys;
  const auto check = [&keys](int depth, Json::parse_event_t event, Json& parsed) {
    constexpr int kDeepest = 3;  // header, tensor, shape
    switch (event) {
      case Json::parse_event_t::object_start:
        keys.emplace_back();
        [[fallthrough]];
      case Json::parse_event_t::array_start:
        if (depth >= kDeepest) throw Contradiction{"the header nests more than 3 levels"};
        break;
      case Json::parse_event_t::object_end:
        keys.pop_back();
        break;
      case Json::parse_event_t::key: {
        const auto& key = parsed.get_ref<const std::string&>();
        if (!keys.back().insert(key).second) throw Contradiction{quote(key) + " occurs twice in the header"};
        break;
      }
      default:
        break;
    }
    return true;
  };
  return Json::parse(begin, end, check);
}

const Json& field(const Json& tensor, const char* name) {
  const auto found = tensor.find(name);
  if (found == tensor.end()) throw Contradiction{fmt::format("{} is missing", name)};
  return *found;
}

/// A list of integers in 0 ... 2^63 - 1.
std::vector<std::int64_t> sizes(const Json& tensor, const char* name) {
  const Json& list = field(tensor, name);
  if (!list.is_array()) throw Contradiction{fmt::format("{} must be a list", name)};
  std::vector<std::int64_t> values;
  for (const Json& item : list) {
    constexpr std::uint64_t kMost = std::numeric_limits<std::int64_t>::max();
    if (!item.is_number_unsigned() || item.get<std::uint64_t>() > kMost) {
      throw Contradiction{fmt::format("{} holds {}; it must be an integer from 0 to 2^63 - 1", name, item.dump())};
    }
    values.push_back(item.get<std::int64_t>());
  }
  return values;
}

void check_name(const std::string& name) {
  if (name.empty()) throw Contradiction{"the name is empty"};
  if (has_control_characters(name)) throw Contradiction{"the name holds control characters"};
}

Tensor parse_tensor(const std::string& name, const Json& json, const std::uint8_t* data, std::size_t data_bytes) {
  check_name(name);
  if (!json.is_object()) throw Contradiction{"its entry must be an object of dtype, shape and data_offsets"};
  Tensor tensor;
  tensor.name = name;
  const Json& dtype = field(json, "dtype");
  if (!dtype.is_string()) throw Contradiction{"dtype must be a string"};
  tensor.dtype = dtype.get<std::string>();
  tensor.shape = sizes(json, "shape");
  const std::vector<std::int64_t> offsets = sizes(json, "data_offsets");
  if (offsets.size() != 2) {
    throw Contradiction{fmt::format("data_offsets holds {} numbers; it must hold begin and end", offsets.size())};
  }
  const auto begin = static_cast<std::size_t>(offsets[0]);
  const auto end = static_cast<std::size_t>(offsets[1]);
  if (begin > end) throw Contradiction{fmt::format("data_offsets [{}, {}] end before they begin", begin, end)};
  if (end > data_bytes) {
    throw Contradiction{
        fmt::format("data_offsets [{}, {}] reach past the {} bytes of data that the file has; fetch it "
                    "again",
                    begin, end, data_bytes)};
  }
  const Result<std::int64_t> bytes = bytes_of_tensor(tensor);
  if (!bytes.ok()) throw Contradiction{bytes.status().message()};
  if (static_cast<std::size_t>(*bytes) != end - begin) {
    throw Contradiction{fmt::format("data_offsets [{}, {}] hold {} bytes, but {} of shape {} takes {}", begin, end,
                                    end - begin, tensor.dtype, to_string(tensor.shape), *bytes)};
  }
  tensor.data = data + begin;
  tensor.bytes = end - begin;
  return tensor;
}

/// The format wants the data covered exactly: no overlap, no gap, nothing behind the last tensor.
void check_coverage(const std::vector<Tensor>& tensors, const std::uint8_t* data, std::size_t data_bytes) {
  std::size_t covered = 0;
  for (const Tensor& tensor : tensors) {
    const auto begin = static_cast<std::size_t>(static_cast<const std::uint8_t*>(tensor.data) - data);
    if (begin != covered) {
      throw Contradiction{
          fmt::format("tensor {}: its data begin at {}, but those before it end at {}; tensors must "
                      "neither overlap nor leave gaps",
                      quote(tensor.name), begin, covered)};
    }
    covered = begin + tensor.bytes;
  }
  if (covered != data_bytes) {
    throw Contradiction{
        fmt::format("the tensors take {} bytes, but {} bytes of data follow the header; there must be "
                    "nothing else",
                    covered, data_bytes)};
  }
}

std::size_t header_length(const FileBytes& file) {
  if (file.size() < kLengthBytes) {
    throw Contradiction{
        fmt::format("{} bytes are too few for a safetensors file, which begins with the 8-byte length of its header; "
                    "fetch the file again",
                    file.size())};
  }
  const std::uint64_t length = load_length(file.data());
  if (length > file.size() - kLengthBytes) {
    throw Contradiction{
        fmt::format("its header is said to have {} bytes, but {} follow; this is no safetensors file, "
                    "or it is cut short: fetch it again",
                    length, file.size() - kLengthBytes)};
  }
  if (length > kMaxSafetensorsHeader) {
    throw Contradiction{fmt::format("a header of {} bytes exceeds the limit of {}", length, kMaxSafetensorsHeader)};
  }
  return static_cast<std::size_t>(length);
}

Metadata parse_metadata(const Json& json) {
  if (!json.is_object()) throw Contradiction{fmt::format("{} must be an object of strings", kMetadataKey)};
  Metadata metadata;
  for (const auto& [key, value] : json.items()) {
    if (!value.is_string()) {
      throw Contradiction{fmt::format("{}: the value of {} must be a string", kMetadataKey, quote(key))};
    }
    metadata.emplace(key, value.get<std::string>());
  }
  return metadata;
}

TensorFile parse(const std::string& path, std::shared_ptr<const FileBytes> file) {
  const std::size_t length = header_length(*file);
  const std::uint8_t* data = file->data() + kLengthBytes + length;
  const std::size_t data_bytes = file->size() - kLengthBytes - length;
  const char* begin = reinterpret_cast<const char*>(file->data()) + kLengthBytes;
  if (length == 0 || *begin != '{') throw Contradiction{"its header must begin with '{'"};
  const Json header = parse_strictly(begin, begin + length);
  std::vector<Tensor> tensors;
  Metadata metadata;
  for (const auto& [name, json] : header.items()) {
    if (name == kMetadataKey) {
      metadata = parse_metadata(json);
      continue;
    }
    try {
      tensors.push_back(parse_tensor(name, json, data, data_bytes));
    } catch (const Contradiction& contradiction) {
      const std::string prefix = fmt::format("tensor {}: ", quote(name));
      const bool named = contradiction.message.compare(0, prefix.size(), prefix) == 0;
      throw Contradiction{(named ? "" : prefix) + contradiction.message};
    }
  }
  TensorFile result(path, std::move(file), std::move(tensors), std::move(metadata));
  check_coverage(result.tensors(), data, data_bytes);
  return result;
}

}  // namespace

Result<TensorFile> parse_safetensors(const std::string& path, std::shared_ptr<const FileBytes> bytes) {
  try {
    return parse(path, std::move(bytes));
  } catch (const Contradiction& contradiction) {
    return Status(StatusCode::kCorrupt, fmt::format("{}: {}", path, contradiction.message));
  } catch (const Json::exception& error) {
    return Status(StatusCode::kCorrupt, fmt::format("{}: its header is no JSON: {}", path, quote(error.what())));
  } catch (const std::bad_alloc&) {
    return Status(StatusCode::kOutOfMemory, fmt::format("{}: too little memory for its header", path));
  }
}

Result<TensorFile> open_safetensors(const std::string& path) {
  Result<std::shared_ptr<const FileBytes>> bytes = FileBytes::map(path);
  if (!bytes.ok()) return bytes.status();
  return parse_safetensors(path, *std::move(bytes));
}

// --- Writing ---------------------------------------------------------------------------------------------------------

namespace {

struct Placed {
  TensorInfo info;
  std::int64_t begin = 0;
  std::int64_t bytes = 0;
  bool written = false;
};

/// The JSON header, with the tensors in the order of their bytes. Throws on text that is not UTF-8.
std::string render_header(const std::vector<Placed>& tensors, const Metadata& metadata) {
  std::string header = "{";
  if (!metadata.empty()) header += fmt::format("\"{}\":{},", kMetadataKey, Json(metadata).dump());
  for (const Placed& tensor : tensors) {
    header += fmt::format(R"({}:{{"dtype":"{}","shape":{},"data_offsets":[{},{}]}},)", Json(tensor.info.name).dump(),
                          tensor.info.dtype, Json(tensor.info.shape).dump(), tensor.begin, tensor.begin + tensor.bytes);
  }
  if (header.back() == ',') header.pop_back();
  return header + "}";
}

std::string folder_of(const std::string& path) {
  const std::size_t slash = path.rfind('/');
  return slash == std::string::npos ? "." : path.substr(0, slash + 1);
}

}  // namespace

struct SafetensorsWriter::State {
  std::string path;
  std::string partial;  // the name of the file being written, beside `path`; empty while it has none
  int file = -1;
  std::size_t header_bytes = 0;  // reserved, a multiple of 8
  std::vector<Placed> tensors;
  std::map<std::string, std::size_t, std::less<>> index;

  ~State() {
    if (file >= 0) ::close(file);
    if (!partial.empty()) ::unlink(partial.c_str());
  }

  Status write_at(std::size_t offset, const void* data, std::size_t bytes) const {
    const char* from = static_cast<const char*>(data);
    while (bytes != 0) {
      const ssize_t written = ::pwrite(file, from, bytes, static_cast<off_t>(offset));
      if (written < 0 && errno == EINTR) continue;
      if (written <= 0) return io_error(path, "write it");
      from += written;
      offset += static_cast<std::size_t>(written);
      bytes -= static_cast<std::size_t>(written);
    }
    return {};
  }

  /// The file that is written until it is complete. It is created like any other file, with the user's umask. Where the
  /// file system can, it has no name before it is complete: then nothing is left however the process ends.
  Status open_partial() {
    struct stat status = {};
    if (::stat(path.c_str(), &status) == 0 && !S_ISREG(status.st_mode)) {
      return {StatusCode::kIo, fmt::format("{}: exists and is no regular file; choose another output", path)};
    }
    if (::access("/proc/self/fd", X_OK) == 0) {
      file = ::open(folder_of(path).c_str(), O_WRONLY | O_TMPFILE | O_CLOEXEC, 0666);
      if (file >= 0) return {};
    }
    return create_name([this] {
      file = ::open(partial.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
      return file >= 0;
    });
  }

  /// A name beside `path` for the file, if it has none yet.
  Status name_partial() {
    if (!partial.empty()) return {};
    const std::string self = fmt::format("/proc/self/fd/{}", file);
    return create_name(
        [&] { return ::linkat(AT_FDCWD, self.c_str(), AT_FDCWD, partial.c_str(), AT_SYMLINK_FOLLOW) == 0; });
  }

 private:
  /// Tries names until `create` succeeds with `partial`.
  template <class Create>
  Status create_name(Create create) {
    for (int attempt = 0; attempt < 100; ++attempt) {
      partial = fmt::format("{}.{}-{}.partial", path, ::getpid(), attempt);
      if (create()) return {};
      if (errno != EEXIST) break;
    }
    partial.clear();
    return {StatusCode::kIo, fmt::format("{}: cannot create a file in {}: {}", path, folder_of(path), errno_text())};
  }
};

SafetensorsWriter::SafetensorsWriter(std::unique_ptr<State> state) : state_(std::move(state)) {}
SafetensorsWriter::SafetensorsWriter(SafetensorsWriter&&) noexcept = default;
SafetensorsWriter& SafetensorsWriter::operator=(SafetensorsWriter&&) noexcept = default;
SafetensorsWriter::~SafetensorsWriter() = default;

Result<SafetensorsWriter> SafetensorsWriter::create(const std::string& path, std::vector<TensorInfo> tensors,
                                                    const Metadata& metadata) {
  auto state = std::make_unique<State>();
  state->path = path;
  std::stable_sort(tensors.begin(), tensors.end(), [](const TensorInfo& a, const TensorInfo& b) {
    const int a_bits = bits_of_dtype(a.dtype), b_bits = bits_of_dtype(b.dtype);
    return a_bits != b_bits ? a_bits > b_bits : a.name < b.name;
  });
  std::int64_t end = 0;
  for (TensorInfo& info : tensors) {
    const auto error = [&](std::string_view rule) {
      return Status(StatusCode::kInvalidArgument, fmt::format("{}: tensor {}: {}", path, quote(info.name), rule));
    };
    if (info.name.empty() || has_control_characters(info.name) || info.name == kMetadataKey) {
      return error("such a name cannot be written");
    }
    Placed tensor;
    const Result<std::int64_t> bytes = bytes_of_tensor(info);
    if (!bytes.ok()) return Status(StatusCode::kInvalidArgument, path + ": " + bytes.status().message());
    tensor.begin = end;
    tensor.bytes = *bytes;
    if (__builtin_add_overflow(end, *bytes, &end)) return error("all tensors together exceed 2^63 bytes");
    if (!state->index.emplace(info.name, state->tensors.size()).second) return error("the name occurs twice");
    tensor.info = std::move(info);
    state->tensors.push_back(std::move(tensor));
  }
  try {
    const std::size_t needed = render_header(state->tensors, metadata).size();
    state->header_bytes = (needed + 7) / 8 * 8;
  } catch (const Json::exception&) {
    return Status(StatusCode::kInvalidArgument, fmt::format("{}: names and metadata must be UTF-8", path));
  }
  if (state->header_bytes > kMaxSafetensorsHeader) {
    return Status(StatusCode::kInvalidArgument, fmt::format("{}: a header of {} bytes exceeds the format's limit of {}",
                                                            path, state->header_bytes, kMaxSafetensorsHeader));
  }
  if (const Status status = state->open_partial(); !status.ok()) return status;
  return SafetensorsWriter(std::move(state));
}

Status SafetensorsWriter::write(std::string_view name, const void* data, std::size_t bytes) {
  const auto found = state_->index.find(name);
  const auto error = [&](const std::string& rule) {
    return Status(StatusCode::kInvalidArgument, fmt::format("{}: tensor {}: {}", state_->path, quote(name), rule));
  };
  if (found == state_->index.end()) return error("was not announced");
  Placed& tensor = state_->tensors[found->second];
  if (tensor.written) return error("is written twice");
  if (bytes != static_cast<std::size_t>(tensor.bytes)) {
    return error(fmt::format("{} bytes given, but {} of shape {} takes {}", bytes, tensor.info.dtype,
                             to_string(tensor.info.shape), tensor.bytes));
  }
  const std::size_t begin = kLengthBytes + state_->header_bytes + static_cast<std::size_t>(tensor.begin);
  if (const Status status = state_->write_at(begin, data, bytes); !status.ok()) return status;
  tensor.written = true;
  return {};
}

Status SafetensorsWriter::commit(const Metadata& metadata) {
  State& state = *state_;
  for (const Placed& tensor : state.tensors) {
    if (!tensor.written) {
      return {StatusCode::kInvalidArgument,
              fmt::format("{}: tensor {} was announced, but never written", state.path, quote(tensor.info.name))};
    }
  }
  std::string header(kLengthBytes, '\0');
  for (std::size_t i = 0; i < kLengthBytes; ++i) header[i] = static_cast<char>(state.header_bytes >> (8 * i) & 0xff);
  try {
    header += render_header(state.tensors, metadata);
  } catch (const Json::exception&) {
    return {StatusCode::kInvalidArgument, fmt::format("{}: the metadata must be UTF-8", state.path)};
  }
  if (header.size() > kLengthBytes + state.header_bytes) {
    return {StatusCode::kInvalidArgument,
            fmt::format("{}: the metadata grew beyond the {} bytes reserved for the header", state.path,
                        state.header_bytes)};
  }
  header.resize(kLengthBytes + state.header_bytes, ' ');  // the format allows spaces, so that data can be aligned
  if (Status status = state.write_at(0, header.data(), header.size()); !status.ok()) return status;
  if (::fsync(state.file) != 0) return io_error(state.path, "write it out");
  if (Status status = state.name_partial(); !status.ok()) return status;
  if (::close(std::exchange(state.file, -1)) != 0) return io_error(state.path, "close it");
  if (::rename(state.partial.c_str(), state.path.c_str()) != 0) return io_error(state.path, "put it in place");
  state.partial.clear();
  // The new name shall survive a power failure too. Not every file system can do this, and the file is there already.
  const int folder = ::open(folder_of(state.path).c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (folder >= 0) {
    static_cast<void>(::fsync(folder));
    ::close(folder);
  }
  return {};
}

}  // namespace machete::formats
