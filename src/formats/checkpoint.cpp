#include "formats/checkpoint.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>
#include <new>
#include <nlohmann/json.hpp>
#include <system_error>
#include <utility>

#include "formats/gguf.h"
#include "formats/safetensors.h"

namespace machete::formats {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kFileSuffix = ".safetensors";
constexpr std::string_view kGgufSuffix = ".gguf";
constexpr std::string_view kIndexSuffix = ".safetensors.index.json";
constexpr std::uintmax_t kMaxIndexBytes = 100'000'000;

bool ends_with(std::string_view text, std::string_view suffix) {
  return text.size() >= suffix.size() && text.substr(text.size() - suffix.size()) == suffix;
}

Status corrupt(const std::string& path, const std::string& what) {
  return {StatusCode::kCorrupt, fmt::format("{}: {}", path, what)};
}

/// The checkpoint in a folder: an index before a single file, safetensors before GGUF.
Result<std::string> find_in_folder(const std::string& folder) {
  std::vector<std::string> files, ggufs, indices;
  std::error_code error;
  for (fs::directory_iterator entry(folder, error), end; !error && entry != end; entry.increment(error)) {
    const std::string name = entry->path().filename().string();
    if (ends_with(name, kIndexSuffix)) indices.push_back(entry->path().string());
    if (ends_with(name, kGgufSuffix)) ggufs.push_back(entry->path().string());
    if (ends_with(name, kFileSuffix)) files.push_back(entry->path().string());
  }
  if (error) return Status(StatusCode::kIo, fmt::format("{}: cannot read the folder: {}", folder, error.message()));
  std::vector<std::string>& found = !indices.empty() ? indices : !files.empty() ? files : ggufs;
  std::sort(found.begin(), found.end());
  if (found.size() == 1) return found.front();
  if (found.empty()) {
    return Status(
        StatusCode::kIo,
        fmt::format("{}: holds no *.safetensors, *.safetensors.index.json or *.gguf; name the checkpoint", folder));
  }
  return Status(StatusCode::kIo,
                fmt::format("{}: holds several checkpoints; name one of {}", folder, fmt::join(found, ", ")));
}

Result<std::string> read_text(const std::string& path) {
  std::error_code error;
  const std::uintmax_t size = fs::file_size(path, error);
  if (error) return Status(StatusCode::kIo, fmt::format("{}: cannot open it: {}", path, error.message()));
  if (size > kMaxIndexBytes) {
    return corrupt(path, fmt::format("an index of {} bytes exceeds the limit of {}", size, kMaxIndexBytes));
  }
  std::ifstream file(path, std::ios::binary);
  std::string text(std::istreambuf_iterator<char>(file), {});
  if (!file) return Status(StatusCode::kIo, fmt::format("{}: cannot read it", path));
  return text;
}

/// The weight_map of an index: tensor -> shard.
Result<std::map<std::string, std::string>> parse_index(const std::string& path) {
  const Result<std::string> text = read_text(path);
  if (!text.ok()) return text.status();
  try {
    const nlohmann::json index = nlohmann::json::parse(*text);
    const auto map = index.find("weight_map");
    if (map == index.end() || !map->is_object()) return corrupt(path, "it has no object weight_map");
    std::map<std::string, std::string> shards;
    for (const auto& [tensor, shard] : map->items()) {
      if (!shard.is_string()) return corrupt(path, fmt::format("tensor {}: its shard must be a string", quote(tensor)));
      auto name = shard.get<std::string>();
      if (!ends_with(name, kFileSuffix) || name.find_first_of("/\\") != std::string::npos ||
          has_control_characters(name)) {
        return corrupt(path, fmt::format("tensor {}: its shard {} must be the plain name of a .safetensors file that "
                                         "lies beside the index",
                                         quote(tensor), quote(name)));
      }
      shards.emplace(tensor, std::move(name));
    }
    return shards;
  } catch (const nlohmann::json::exception& error) {
    return corrupt(path, fmt::format("it is no JSON: {}", quote(error.what())));
  } catch (const std::bad_alloc&) {
    return Status(StatusCode::kOutOfMemory, fmt::format("{}: too little memory for it", path));
  }
}

}  // namespace

Result<Checkpoint> Checkpoint::open(const std::string& path) {
  std::error_code error;
  if (fs::is_directory(path, error)) {
    const Result<std::string> found = find_in_folder(path);
    return found.ok() ? open(*found) : found.status();
  }
  if (ends_with(path, ".json")) return open_index(path);
  const Result<std::shared_ptr<const FileBytes>> bytes = FileBytes::map(path);
  if (!bytes.ok()) return bytes.status();
  Result<TensorFile> file = is_gguf(**bytes) ? parse_gguf(path, *bytes) : parse_safetensors(path, *bytes);
  if (!file.ok()) return file.status();
  return of(*std::move(file), read_config(fs::path(path).parent_path().string()));
}

Checkpoint Checkpoint::of(TensorFile file, Result<QuantizationConfig> config) {
  Checkpoint checkpoint;
  checkpoint.path_ = file.path();
  checkpoint.metadata_ = file.metadata();
  checkpoint.config_ = std::move(config);
  checkpoint.files_.push_back(std::move(file));
  return checkpoint;
}

Result<Checkpoint> Checkpoint::open_files(const std::vector<std::string>& paths) {
  if (paths.empty()) return Status(StatusCode::kInvalidArgument, "a checkpoint without files; name at least one");
  if (paths.size() == 1) return open(paths.front());
  Checkpoint checkpoint;
  checkpoint.path_ = fs::path(paths.front()).parent_path().string();
  checkpoint.config_ = read_config(checkpoint.path_);
  for (const std::string& path : paths) {
    Result<TensorFile> file = open_safetensors(path);
    if (!file.ok()) return file.status();
    for (const Tensor& tensor : file->tensors()) checkpoint.file_of_.emplace(tensor.name, checkpoint.files_.size());
    checkpoint.metadata_.insert(file->metadata().begin(), file->metadata().end());
    checkpoint.files_.push_back(*std::move(file));
  }
  return checkpoint;
}

Result<Checkpoint> Checkpoint::open_index(const std::string& path) {
  const auto shards = parse_index(path);
  if (!shards.ok()) return shards.status();
  Checkpoint checkpoint;
  checkpoint.path_ = path;
  checkpoint.config_ = read_config(fs::path(path).parent_path().string());
  std::map<std::string, std::size_t> opened;
  for (const auto& [tensor, shard] : *shards) opened.emplace(shard, 0);
  for (auto& [shard, number] : opened) {
    Result<TensorFile> file = open_safetensors((fs::path(path).parent_path() / shard).string());
    if (!file.ok()) return file.status();
    number = checkpoint.files_.size();
    checkpoint.metadata_.insert(file->metadata().begin(), file->metadata().end());
    checkpoint.files_.push_back(*std::move(file));
  }
  for (const auto& [tensor, shard] : *shards) {
    const std::size_t number = opened[shard];
    if (checkpoint.files_[number].find(tensor) == nullptr) {
      return corrupt(path, fmt::format("tensor {} is not in the shard {} that the index names", quote(tensor), shard));
    }
    checkpoint.file_of_.emplace(tensor, number);
  }
  // Whatever else the shards hold belongs to the model as well: programs that load shard by shard see it too.
  for (std::size_t number = 0; number < checkpoint.files_.size(); ++number) {
    for (const Tensor& tensor : checkpoint.files_[number].tensors()) checkpoint.file_of_.emplace(tensor.name, number);
  }
  return checkpoint;
}

std::vector<Tensor> Checkpoint::tensors() const {
  std::vector<Tensor> all;
  for (std::size_t number = 0; number < files_.size(); ++number) {
    for (const Tensor& tensor : files_[number].tensors()) {
      const auto entry = file_of_.find(tensor.name);
      if (entry == file_of_.end() || entry->second == number) all.push_back(tensor);
    }
  }
  return all;
}

const Tensor* Checkpoint::find(std::string_view name) const {
  const auto entry = file_of_.find(name);
  if (files_.size() != 1 && entry == file_of_.end()) return nullptr;
  return files_[entry == file_of_.end() ? 0 : entry->second].find(name);
}

}  // namespace machete::formats
