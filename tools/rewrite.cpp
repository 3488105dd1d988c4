#include "rewrite.h"

#include <fmt/format.h>

#include <filesystem>
#include <system_error>
#include <utility>

#include "formats/safetensors.h"
#include "progress.h"

namespace machete::tools {

using formats::Manifest;
using formats::QuantizedLayer;
using formats::TensorInfo;

Status check_kept(const formats::Checkpoint& checkpoint, const Rewrite& rewrite) {
  for (const formats::Tensor& tensor : rewrite.kept) {
    if (formats::bits_of_dtype(tensor.dtype) != 0) continue;
    return {
        StatusCode::kUnsupported,
        fmt::format("{}: tensor {} is {}, which a safetensors file cannot hold; quantise the model to Q4_0, Q4_1 or "
                    "Q8_0 throughout (llama-quantize --pure)",
                    checkpoint.path(), formats::quote(tensor.name), tensor.dtype)};
  }
  return {};
}

Status write_checkpoint(const formats::Checkpoint& checkpoint, const std::string& output, const std::string& what,
                        Rewrite& rewrite, const std::function<Result<reference::QuantizedTensor>(std::size_t)>& make) {
  std::error_code error;
  for (const formats::TensorFile& file : checkpoint.files()) {
    if (std::filesystem::equivalent(file.path(), output, error)) {
      return {StatusCode::kInvalidArgument,
              fmt::format("{}: is part of the input, which would be lost; choose another output", output)};
    }
  }
  const std::vector<QuantizedLayer>& layers = rewrite.manifest.layers;
  if (Status status = check_kept(checkpoint, rewrite); !status.ok()) return status;
  std::vector<TensorInfo> tensors(rewrite.kept.begin(), rewrite.kept.end());
  std::int64_t elements = 0;
  for (const QuantizedLayer& layer : layers) {
    for (TensorInfo& tensor : layer.tensors()) tensors.push_back(std::move(tensor));
    elements += layer.n * layer.k;
  }
  formats::Metadata metadata = checkpoint.metadata();
  metadata[Manifest::kKey] = rewrite.manifest.widest().to_json();  // the errors are known when all is done
  auto writer = formats::SafetensorsWriter::create(output, std::move(tensors), metadata);
  if (!writer.ok()) return writer.status();

  Progress progress(what, elements);
  for (std::size_t i = 0; i < layers.size(); ++i) {
    progress.begin(layers[i].name);
    const Result<reference::QuantizedTensor> weight = make(i);
    const Status status = weight.ok() ? write_layer(*writer, layers[i], *weight) : weight.status();
    if (!status.ok()) return {status.code(), fmt::format("{}: {}", checkpoint.path(), status.message())};
    progress.advance(layers[i].n * layers[i].k);
  }
  progress.begin("writing the rest");
  for (const formats::Tensor& tensor : rewrite.kept) {
    if (Status status = writer->write(tensor.name, tensor.data, tensor.bytes); !status.ok()) return status;
  }
  metadata[Manifest::kKey] = rewrite.manifest.to_json();
  return writer->commit(metadata);
}

}  // namespace machete::tools
