#pragma once

#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "formats/config.h"
#include "formats/tensor.h"
#include "formats/tensor_file.h"
#include "machete/status.h"

namespace machete::formats {

/// All tensors of a model: of a .safetensors or .gguf file, of the shards that a *.safetensors.index.json lists, or of
/// whichever of them lies in a folder. Shards lie beside their index; a shard's name with a path in it is refused.
class Checkpoint {
 public:
  static Result<Checkpoint> open(const std::string& path);
  static Checkpoint of(TensorFile file, Result<QuantizationConfig> config);
  static Result<Checkpoint> open_files(const std::vector<std::string>& paths);  // of one folder, without an index

  const std::string& path() const { return path_; }       // the file or index that was opened
  std::vector<Tensor> tensors() const;                    // file by file, in the order of their bytes
  const Tensor* find(std::string_view name) const;        // null if there is none
  const Metadata& metadata() const { return metadata_; }  // of all files; where they differ, the first has its way
  const std::vector<TensorFile>& files() const { return files_; }
  const Result<QuantizationConfig>& config() const { return config_; }  // of its folder

 private:
  std::string path_;
  std::vector<TensorFile> files_;                            // sorted by name
  std::map<std::string, std::size_t, std::less<>> file_of_;  // which of the shards holds a tensor; empty for one file
  Metadata metadata_;
  Result<QuantizationConfig> config_ = QuantizationConfig();

  static Result<Checkpoint> open_index(const std::string& path);
};

}  // namespace machete::formats
