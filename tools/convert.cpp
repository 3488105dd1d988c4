#include <fmt/format.h>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "command.h"
#include "export.h"
#include "formats/checkpoint.h"
#include "formats/foreign.h"
#include "formats/manifest.h"
#include "options.h"
#include "rewrite.h"

namespace machete::tools {
namespace {

using Json = nlohmann::ordered_json;
using formats::Checkpoint;
using formats::ForeignLayer;
using formats::Manifest;
using formats::Tensor;

struct Options {
  std::string input;
  std::string output;
  std::string to;
  bool json = false;
};

struct Work : Rewrite {              // layers that cannot be read are kept
  std::vector<ForeignLayer> layers;  // one for each of the manifest; none if the input is ours
  std::vector<std::string> origins;  // the format of each
  std::int64_t obstacles = 0;

  Result<reference::QuantizedTensor> read(const Checkpoint& checkpoint, std::size_t i) const {
    if (layers.empty()) return formats::read_layer(checkpoint, manifest.layers[i]);
    return formats::read_foreign_layer(checkpoint, layers[i]);
  }
};

void keep_all_but(const Checkpoint& checkpoint, const std::set<std::string>& replaced, Work& work) {
  for (Tensor& tensor : checkpoint.tensors()) {
    if (replaced.count(tensor.name) == 0) work.kept.push_back(std::move(tensor));
  }
}

/// A checkpoint of ours, on its way to another tool.
Result<Work> prepare_ours(const Checkpoint& checkpoint) {
  Result<Manifest> manifest = formats::read_manifest(checkpoint);
  if (!manifest.ok()) return manifest.status();
  Work work;
  std::set<std::string> replaced;
  for (const formats::QuantizedLayer& layer : manifest->layers) {
    for (const formats::TensorInfo& tensor : layer.tensors()) replaced.insert(tensor.name);
    work.origins.emplace_back("machete");
  }
  work.manifest = *std::move(manifest);
  if (work.manifest.layers.empty()) {
    return Status(StatusCode::kInvalidArgument, fmt::format("{}: holds no quantised layer", checkpoint.path()));
  }
  keep_all_but(checkpoint, replaced, work);
  return work;
}

Result<Work> prepare(const Checkpoint& checkpoint, const Options& options) {
  if (checkpoint.metadata().count(Manifest::kKey) != 0) {
    if (!options.to.empty()) return prepare_ours(checkpoint);
    return Status(StatusCode::kInvalidArgument,
                  fmt::format("{}: is in our format already; machete verify runs it, --to writes it for other tools",
                              checkpoint.path()));
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
    work.manifest.layers.push_back(layer);
    replaced.insert(layer.parts.begin(), layer.parts.end());
    work.origins.emplace_back(layer.format->name);
    work.layers.push_back(std::move(layer));
  }
  if (work.layers.empty()) {
    return Status(
        StatusCode::kInvalidArgument,
        obstacle.empty()
            ? fmt::format("{}: holds no layer that another tool has quantised; machete inspect shows what it holds",
                          checkpoint.path())
            : fmt::format("{}: none of its {} quantised layers can be read; layer {}", checkpoint.path(),
                          work.obstacles, obstacle));
  }
  keep_all_but(checkpoint, replaced, work);
  return work;
}

/// Null: ours.
const formats::FormatWriter* find_writer(const std::string& name) {
  for (const formats::FormatWriter* writer : formats::kAllWriters) {
    if (writer->name == name) return writer;
  }
  return nullptr;
}

std::set<std::string> writer_names() {
  std::set<std::string> names;
  for (const formats::FormatWriter* writer : formats::kAllWriters) names.emplace(writer->name);
  return names;
}

Status convert(const Options& options) {
  const Result<Checkpoint> checkpoint = Checkpoint::open(options.input);
  if (!checkpoint.ok()) return checkpoint.status();
  Result<Work> work = prepare(*checkpoint, options);
  if (!work.ok()) return work.status();
  const auto read = [&](std::size_t i) { return work->read(*checkpoint, i); };
  const formats::FormatWriter* writer = find_writer(options.to);
  const Status status = writer == nullptr ? write_checkpoint(*checkpoint, options.output, "converting", *work, read)
                                          : export_checkpoint(*checkpoint, options.output, *writer, *work, read);
  if (!status.ok()) return status;

  if (options.json) {
    Json layers = Json::array();
    for (std::size_t i = 0; i < work->manifest.layers.size(); ++i) {
      const formats::QuantizedLayer& layer = work->manifest.layers[i];
      layers.push_back({{"name", layer.name},
                        {"format", work->origins[i]},
                        {"type", name_of(layer.type)},
                        {"n", layer.n},
                        {"k", layer.k},
                        {"group_size", layer.group_size},
                        {"scale_type", name_of(layer.scale_type)}});
    }
    const Json json = {{"input", checkpoint->path()},
                       {"output", options.output},
                       {"to", options.to.empty() ? "machete" : options.to},
                       {"layers", layers},
                       {"left_out", work->obstacles},
                       {"kept_tensors", work->kept.size()}};
    fmt::print("{}\n", json.dump(2));
    return {};
  }
  fmt::print("Wrote {}: {} layers, and {} other tensors as they were.\n", options.output, work->manifest.layers.size(),
             work->kept.size());
  if (work->obstacles > 0) {
    fmt::print("{} quantised layers were left as they were; machete inspect {} says why.\n", work->obstacles,
               checkpoint->path());
  }
  return {};
}

}  // namespace

Command add_convert(CLI::App& app) {
  CLI::App* command = app.add_subcommand(
      "convert", "Turns GPTQ, AWQ, compressed-tensors and GGUF checkpoints into ours, or ours into theirs");
  command->footer(
      R"(Codes, zero points and scales stay as they are, bit for bit: only their order changes. (Of GGUF's Q4_1 the minima become
zero points of fp32, rounded once.) Scales that bf16 does not hold exactly serve fp16 activations alone.

With --to, layers of ours or another tool's are written for other tools: into the folder OUTPUT, as model.safetensors with
its config.json. gptq is version 1, which every tool reads and which has no zero points of 0; gptq_v2 has them.

Examples:
  machete inspect path/to/model-gptq
  machete convert path/to/model-gptq -o model-u4b8.safetensors
  machete convert model-Q4_0.gguf -o model-u4b8.safetensors
  machete convert model-u4b8.safetensors --to pack-quantized -o model-compressed-tensors)");
  auto options = std::make_shared<Options>();
  add_checkpoint(*command, options->input);
  command->add_option("-o,--output", options->output, "the .safetensors file to write; with --to the folder")
      ->required()
      ->type_name("OUTPUT");
  command->add_option("--to", options->to, "another tool's format: gptq, gptq_v2 or pack-quantized; default ours")
      ->check(CLI::IsMember(writer_names()))
      ->option_text("FORMAT");
  add_json(*command, options->json);
  return {command, [options] { return convert(*options); }};
}

}  // namespace machete::tools
