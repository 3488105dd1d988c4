#include "export.h"

#include <fmt/format.h>

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <system_error>
#include <utility>
#include <vector>

#include "formats/safetensors.h"
#include "layers.h"
#include "progress.h"

namespace machete::tools {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;
using formats::FormatWriter;
using formats::QuantizedLayer;
using formats::TensorInfo;

constexpr const char* kModel = "model.safetensors";
constexpr const char* kConfig = "config.json";

/// Matrices that stay as they are: the configuration must name them, lest they are taken for quantised ones.
std::vector<std::string> ignored(const Rewrite& rewrite) {
  std::vector<std::string> names;
  for (const formats::Tensor& tensor : rewrite.kept) {
    if (tensor.shape.size() != 2 || !formats::is_floating(tensor.dtype)) continue;
    if (std::string name = layer_name(tensor.name); name != tensor.name) names.push_back(std::move(name));
  }
  return names;
}

/// The input's config.json, or an empty one, with the format's quantization_config.
Result<std::string> make_config(const formats::Checkpoint& checkpoint, const FormatWriter& format,
                                const Rewrite& rewrite) {
  const Result<std::string> ours = format.config(rewrite.manifest.layers, ignored(rewrite));
  if (!ours.ok()) return ours.status();
  const fs::path path = fs::path(checkpoint.path()).parent_path() / kConfig;
  try {
    Json config = Json::object();
    if (std::ifstream stream(path); stream) config = Json::parse(stream);
    config["quantization_config"] = Json::parse(*ours);
    return config.dump(2) + "\n";
  } catch (const Json::exception& error) {
    return Status(StatusCode::kCorrupt, fmt::format("{}: {}", path.string(), formats::quote(error.what())));
  }
}

/// A folder that holds neither of the files yet; what is put there goes again unless it is kept.
class Target {
 public:
  static Result<Target> open(const std::string& folder) {
    Target target;
    target.folder_ = folder;
    std::error_code error;
    for (const char* name : {kModel, kConfig}) {
      if (!fs::exists(target.folder_ / name, error)) continue;
      return Status(StatusCode::kInvalidArgument,
                    fmt::format("{}: exists already; choose another folder", (target.folder_ / name).string()));
    }
    target.made_ = fs::create_directory(folder, error);
    if (error || !fs::is_directory(folder, error)) {
      return Status(StatusCode::kIo, fmt::format("{}: cannot make the folder: {}", folder,
                                                 error ? error.message() : "there is a file of that name"));
    }
    return target;
  }

  Target(Target&& other) noexcept
      : folder_(std::move(other.folder_)),
        made_(std::exchange(other.made_, false)),
        configured_(std::exchange(other.configured_, false)) {}
  Target& operator=(Target&&) = delete;
  ~Target() {
    std::error_code ignored_error;
    if (configured_) fs::remove(folder_ / kConfig, ignored_error);
    if (made_) fs::remove(folder_, ignored_error);  // only an empty one goes
  }

  std::string model() const { return (folder_ / kModel).string(); }
  Status write_config(const std::string& text) {
    const fs::path path = folder_ / kConfig;
    configured_ = true;
    std::ofstream stream(path);
    stream << text;
    stream.close();
    return stream ? Status() : Status(StatusCode::kIo, fmt::format("{}: cannot write it", path.string()));
  }
  void keep() { made_ = configured_ = false; }

 private:
  Target() = default;
  fs::path folder_;
  bool made_ = false;
  bool configured_ = false;
};

Status write_layer(formats::SafetensorsWriter& writer, const FormatWriter& format, const QuantizedLayer& layer,
                   const reference::QuantizedTensor& weight) {
  const Result<std::vector<TensorInfo>> tensors = format.tensors(layer);
  if (!tensors.ok()) return tensors.status();
  const Result<std::vector<std::vector<std::uint8_t>>> bytes = format.pack(layer, weight);
  if (!bytes.ok()) return bytes.status();
  for (std::size_t i = 0; i < tensors->size(); ++i) {
    const std::vector<std::uint8_t>& data = (*bytes)[i];
    if (Status status = writer.write((*tensors)[i].name, data.data(), data.size()); !status.ok()) return status;
  }
  return {};
}

}  // namespace

Status export_checkpoint(const formats::Checkpoint& checkpoint, const std::string& folder, const FormatWriter& format,
                         const Rewrite& rewrite,
                         const std::function<Result<reference::QuantizedTensor>(std::size_t)>& make) {
  const std::vector<QuantizedLayer>& layers = rewrite.manifest.layers;
  const auto failure = [&checkpoint](const Status& status) {
    return Status(status.code(), fmt::format("{}: {}", checkpoint.path(), status.message()));
  };
  if (Status status = check_kept(checkpoint, rewrite); !status.ok()) return status;
  std::vector<TensorInfo> tensors(rewrite.kept.begin(), rewrite.kept.end());
  std::int64_t elements = 0;
  for (const QuantizedLayer& layer : layers) {
    Result<std::vector<TensorInfo>> parts = format.tensors(layer);
    if (!parts.ok()) return failure(parts.status());
    for (TensorInfo& tensor : *parts) tensors.push_back(std::move(tensor));
    elements += layer.n * layer.k;
  }
  const Result<std::string> config = make_config(checkpoint, format, rewrite);
  if (!config.ok()) return failure(config.status());
  Result<Target> target = Target::open(folder);
  if (!target.ok()) return target.status();

  formats::Metadata metadata = checkpoint.metadata();
  metadata.erase(formats::Manifest::kKey);
  auto writer = formats::SafetensorsWriter::create(target->model(), std::move(tensors), metadata);
  if (!writer.ok()) return writer.status();
  Progress progress("converting", elements);
  for (std::size_t i = 0; i < layers.size(); ++i) {
    progress.begin(layers[i].name);
    const Result<reference::QuantizedTensor> weight = make(i);
    if (!weight.ok()) return failure(weight.status());
    if (Status status = write_layer(*writer, format, layers[i], *weight); !status.ok()) return failure(status);
    progress.advance(layers[i].n * layers[i].k);
  }
  progress.begin("writing the rest");
  for (const formats::Tensor& tensor : rewrite.kept) {
    if (Status status = writer->write(tensor.name, tensor.data, tensor.bytes); !status.ok()) return status;
  }
  // The configuration first: without it the model would be read as version 1 or not at all.
  if (Status status = target->write_config(*config); !status.ok()) return status;
  if (Status status = writer->commit(metadata); !status.ok()) return status;
  target->keep();
  return {};
}

}  // namespace machete::tools
