#include "formats/tensor_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <system_error>
#include <utility>

namespace machete::formats {

Result<std::shared_ptr<const FileBytes>> FileBytes::map(const std::string& path) {
  const auto failure = [&path](const char* attempt) {
    return Status(StatusCode::kIo,
                  fmt::format("{}: cannot {}: {}", path, attempt, std::generic_category().message(errno)));
  };
  const int file = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (file < 0) return failure("open it");
  std::shared_ptr<FileBytes> bytes(new FileBytes);
  struct stat status = {};
  Status error;
  if (::fstat(file, &status) != 0) {
    error = failure("map it");
  } else if (!S_ISREG(status.st_mode)) {
    error = Status(StatusCode::kIo, fmt::format("{}: not a regular file", path));
  } else if (status.st_size > 0) {  // nothing cannot be mapped
    bytes->size_ = static_cast<std::size_t>(status.st_size);
    void* data = ::mmap(nullptr, bytes->size_, PROT_READ, MAP_PRIVATE, file, 0);
    bytes->mapped_ = data != MAP_FAILED;
    if (!bytes->mapped_) error = failure("map it");
    bytes->data_ = static_cast<const std::uint8_t*>(data);
  }
  ::close(file);
  if (!error.ok()) return error;
  return std::shared_ptr<const FileBytes>(std::move(bytes));
}

std::shared_ptr<const FileBytes> FileBytes::of(std::vector<std::uint8_t> bytes) {
  std::shared_ptr<FileBytes> result(new FileBytes);
  result->held_ = std::move(bytes);
  result->data_ = result->held_.data();
  result->size_ = result->held_.size();
  return result;
}

FileBytes::~FileBytes() {
  if (mapped_) ::munmap(const_cast<std::uint8_t*>(data_), size_);
}

TensorFile::TensorFile(std::string path, std::shared_ptr<const FileBytes> bytes, std::vector<Tensor> tensors,
                       Metadata metadata) {
  auto contents = std::make_shared<Contents>();
  // Of tensors that begin together at most one is not empty; it comes last. Equal ones keep their order.
  std::stable_sort(tensors.begin(), tensors.end(), [](const Tensor& a, const Tensor& b) {
    return std::pair(a.data, a.bytes) < std::pair(b.data, b.bytes);
  });
  for (std::size_t i = 0; i < tensors.size(); ++i) contents->index.emplace(tensors[i].name, i);
  contents->path = std::move(path);
  contents->bytes = std::move(bytes);
  contents->tensors = std::move(tensors);
  contents->metadata = std::move(metadata);
  contents_ = std::move(contents);
}

const Tensor* TensorFile::find(std::string_view name) const {
  const auto found = contents_->index.find(name);
  return found == contents_->index.end() ? nullptr : &contents_->tensors[found->second];
}

}  // namespace machete::formats
