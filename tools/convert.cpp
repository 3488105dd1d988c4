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
  bool json = false;
};

struct Work : Rewrite {              // layers that cannot be read are kept
  std::vector<ForeignLayer> layers;  // one for each of the manifest
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
    work.manifest.layers.push_back(layer);
    replaced.insert(layer.parts.begin(), layer.parts.end());
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

Status convert(const Options& options) {
  const Result<Checkpoint> checkpoint = Checkpoint::open(options.input);
  if (!checkpoint.ok()) return checkpoint.status();
  Result<Work> work = prepare(*checkpoint);
  if (!work.ok()) return work.status();
  const Status status = write_checkpoint(*checkpoint, options.output, "converting", *work, [&](std::size_t i) {
    return Result<reference::QuantizedTensor>(formats::read_foreign_layer(*checkpoint, work->layers[i]));
  });
  if (!status.ok()) return status;

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
  add_checkpoint(*command, options->input);
  command->add_option("-o,--output", options->output, "the .safetensors file to write")->required()->type_name("FILE");
  add_json(*command, options->json);
  return {command, [options] { return convert(*options); }};
}

}  // namespace machete::tools
