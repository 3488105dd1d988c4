#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "formats/tensor.h"
#include "machete/status.h"

namespace machete::formats {

/// The bytes of a file, read-only: mapped, so that they are read as they are touched, or held in memory.
class FileBytes {
 public:
  static Result<std::shared_ptr<const FileBytes>> map(const std::string& path);
  static std::shared_ptr<const FileBytes> of(std::vector<std::uint8_t> bytes);

  FileBytes(const FileBytes&) = delete;
  FileBytes& operator=(const FileBytes&) = delete;
  ~FileBytes();

  const std::uint8_t* data() const { return data_; }
  std::size_t size() const { return size_; }

 private:
  FileBytes() = default;
  const std::uint8_t* data_ = nullptr;
  std::size_t size_ = 0;
  bool mapped_ = false;
  std::vector<std::uint8_t> held_;
};

/// A file of named tensors, whatever its container; opening one (safetensors.h, gguf.h) reads its header alone. Copies
/// share the bytes.
class TensorFile {
 public:
  /// `tensors` lie within `bytes` and have names of their own.
  TensorFile(std::string path, std::shared_ptr<const FileBytes> bytes, std::vector<Tensor> tensors, Metadata metadata);

  const std::string& path() const { return contents_->path; }
  const std::vector<Tensor>& tensors() const { return contents_->tensors; }  // in the order of their bytes
  const Tensor* find(std::string_view name) const;                           // null if there is none
  const Metadata& metadata() const { return contents_->metadata; }

 private:
  struct Contents {
    std::string path;
    std::shared_ptr<const FileBytes> bytes;
    std::vector<Tensor> tensors;
    std::map<std::string, std::size_t, std::less<>> index;  // into tensors
    Metadata metadata;
  };
  std::shared_ptr<const Contents> contents_;
};

}  // namespace machete::formats
