#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "formats/tensor.h"
#include "formats/tensor_file.h"
#include "machete/status.h"

namespace machete::formats {

constexpr std::size_t kMaxSafetensorsHeader = 100'000'000;  // bytes, the format's own limit

/// A safetensors file. Nothing in it is trusted: whatever contradicts the format is an error that names file, tensor
/// and rule, and no accepted file leads to a read outside its bytes.
Result<TensorFile> open_safetensors(const std::string& path);
Result<TensorFile> parse_safetensors(const std::string& path, std::shared_ptr<const FileBytes> bytes);

/// Writes a safetensors file piece by piece, so that a model need never be in memory. The file appears under its name
/// when commit() succeeds, complete; otherwise nothing does, and what was there before stays. Equal input gives equal
/// bytes.
class SafetensorsWriter {
 public:
  /// Lays the file out: large elements first, then by name, as the format's own library does, so that every tensor is
  /// aligned to its elements. `metadata` may still change until commit() if it does not grow.
  static Result<SafetensorsWriter> create(const std::string& path, std::vector<TensorInfo> tensors,
                                          const Metadata& metadata);

  SafetensorsWriter(SafetensorsWriter&&) noexcept;
  SafetensorsWriter& operator=(SafetensorsWriter&&) noexcept;
  ~SafetensorsWriter();

  /// Once for each tensor, in any order.
  Status write(std::string_view name, const void* data, std::size_t bytes);

  Status commit(const Metadata& metadata);

 private:
  struct State;
  explicit SafetensorsWriter(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace machete::formats
