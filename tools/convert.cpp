#include <fmt/format.h>

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "command.h"
#include "formats/checkpoint.h"
#include "formats/foreign.h"
#include "formats/manifest.h"
#include "formats/safetensors.h"
#include "options.h"
#include "progress.h"
#include "table.h"

namespace machete::tools {
namespace {

using Json = nlohmann::ordered_json;
using formats::Checkpoint;
using formats::ForeignLayer;
using formats::Manifest;
using formats::QuantizedLayer;
using formats::Tensor;
using formats::TensorInfo;

struct Options {
  std::string input;
  std::string output;
  bool json = false;
};

struct Work {
  std::vector<ForeignLayer> layers;
  Manifest manifest;         // one entry a layer
  std::vector<Tensor> kept;  // everything else, layers that cannot be read included
  std::int64_t obstacles = 0;
};

Result<Work> prepare(const Checkpoint& checkpoint) {
  if (checkpoint.metadata().count(Manifest::kKey) != 0) {
    return Status(StatusCode::kInvalidArgument,
                  fmt::format("{}: is in our format already; machete verify runs it", checkpoint.path()));
  }
  Result<std::vector<ForeignLayer>> found = formats::find_foreign_layers(checkpoint);
  if (!found.ok()) return found.status();
  Work work;
  std::set<std::string> replaced;
  std::string obstacle;
  for (ForeignLayer& layer : *found) {
    if (!layer.obstacle.empty()) {
      ++work.obstacles;
      obstacle = fmt::format("{}: {}", formats::quote(layer.name), layer.obstacle);
      continue;
    }
    QuantizedLayer entry;
    entry.name = layer.name;
    entry.source = layer.tensors.front();
    entry.source_dtype = std::string(name_of(layer.format));
    entry.type = layer.type;
    entry.n = layer.n;
    entry.k = layer.k;
    entry.group_size = layer.group_size;
    entry.scale_type = layer.scale_type;
    work.manifest.layers.push_back(std::move(entry));
    replaced.insert(layer.tensors.begin(), layer.tensors.end());
    work.layers.push_back(std::move(layer));
  }
  if (work.layers.empty()) {
    return Status(StatusCode::kInvalidArgument,
                  obstacle.empty() ? fmt::format("{}: holds no layer that GPTQ, AWQ or compressed-tensors have "
                                                 "quantised; machete inspect shows what it holds",
                                                 checkpoint.path())
                                   : fmt::format("{}: none of its {} quantised layers can be read; layer {}",
                                                 checkpoint.path(), work.obstacles, obstacle));
  }
  for (Tensor& tensor : checkpoint.tensors()) {
    if (replaced.count(tensor.name) == 0) work.kept.push_back(std::move(tensor));
  }
  return work;
}

Status write_output(const Checkpoint& checkpoint, const std::string& output, const Work& work) {
  std::error_code error;
  for (const formats::SafetensorsFile& file : checkpoint.files()) {
    if (std::filesystem::equivalent(file.path(), output, error)) {
      return {StatusCode::kInvalidArgument,
              fmt::format("{}: is part of the input, which would be lost; choose another output", output)};
    }
  }
  std::vector<TensorInfo> tensors(work.kept.begin(), work.kept.end());
  std::int64_t elements = 0;
  for (const QuantizedLayer& layer : work.manifest.layers) {
    for (TensorInfo& tensor : layer.tensors()) tensors.push_back(std::move(tensor));
    elements += layer.n * layer.k;
  }
  formats::Metadata metadata = checkpoint.metadata();
  metadata[Manifest::kKey] = work.manifest.to_json();
  auto writer = formats::SafetensorsWriter::create(output, std::move(tensors), metadata);
  if (!writer.ok()) return writer.status();

  Progress progress("converting", elements);
  for (const ForeignLayer& layer : work.layers) {
    progress.begin(layer.name);
    const reference::QuantizedTensor weight = formats::read_foreign_layer(checkpoint, layer);
    const auto write = [&](const char* suffix, const std::vector<std::uint8_t>& bytes) {
      return bytes.empty() ? Status() : writer->write(layer.name + suffix, bytes.data(), bytes.size());
    };
    for (const Status& status : {write(".qweight", weight.qweight), write(".scales", weight.scales),
                                 write(".zero_points", weight.zero_points)}) {
      if (!status.ok()) return status;
    }
    progress.advance(layer.n * layer.k);
  }
  progress.begin("writing the rest");
  for (const Tensor& tensor : work.kept) {
    if (Status status = writer->write(tensor.name, tensor.data, tensor.bytes); !status.ok()) return status;
  }
  return writer->commit(metadata);
}

Status convert(const Options& options) {
  const Result<Checkpoint> checkpoint = Checkpoint::open(options.input);
  if (!checkpoint.ok()) return checkpoint.status();
  const Result<Work> work = prepare(*checkpoint);
  if (!work.ok()) return work.status();
  if (Status status = write_output(*checkpoint, options.output, *work); !status.ok()) return status;

  const auto with_zero_points = std::count_if(work->layers.begin(), work->layers.end(),
                                              [](const ForeignLayer& l) { return l.type == WeightType::kU4; });
  if (options.json) {
    Json layers = Json::array();
    for (const ForeignLayer& layer : work->layers) {
      layers.push_back({{"name", layer.name},
                        {"format", name_of(layer.format)},
                        {"type", name_of(layer.type)},
                        {"n", layer.n},
                        {"k", layer.k},
                        {"group_size", layer.group_size},
                        {"scale_type", name_of(layer.scale_type)}});
    }
    const Json json = {{"input", checkpoint->path()},
                       {"output", options.output},
                       {"layers", layers},
                       {"left_out", work->obstacles},
                       {"kept_tensors", work->kept.size()}};
    fmt::print("{}\n", json.dump(2));
    return {};
  }
  fmt::print("Wrote {}: {} layers, bit for bit, and {} other tensors as they were.\n", options.output,
             work->layers.size(), work->kept.size());
  if (work->obstacles > 0) {
    fmt::print("{} quantised layers were left as they were; machete inspect {} says why.\n", work->obstacles,
               checkpoint->path());
  }
  if (with_zero_points > 0) fmt::print("{} layers have zero points, which no kernel serves yet.\n", with_zero_points);
  return {};
}

}  // namespace

Command add_convert(CLI::App& app) {
  CLI::App* command = app.add_subcommand("convert", "Turns a GPTQ, AWQ or compressed-tensors checkpoint into ours");
  command->footer(
      R"(Codes, zero points and scales stay as they are, bit for bit: only their order changes. Scales of F16 that bf16 does not
hold exactly serve fp16 activations alone.

Examples:
  machete inspect path/to/model-gptq
  machete convert path/to/model-gptq -o model-u4b8.safetensors
  machete verify model-u4b8.safetensors --a f16)");
  auto options = std::make_shared<Options>();
  command
      ->add_option("INPUT", options->input, "a .safetensors file, a *.safetensors.index.json, or a folder with either")
      ->required()
      ->option_text(" ");
  command->add_option("-o,--output", options->output, "the .safetensors file to write")->required()->type_name("FILE");
  add_json(*command, options->json);
  return {command, [options] { return convert(*options); }};
}

}  // namespace machete::tools
