#include <fmt/format.h>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "activations.h"
#include "command.h"
#include "formats/checkpoint.h"
#include "formats/foreign.h"
#include "formats/manifest.h"
#include "layers.h"
#include "machete/linear.h"
#include "options.h"
#include "table.h"

namespace machete::tools {
namespace {

using Align = Table::Align;
using Json = nlohmann::ordered_json;
using formats::Checkpoint;

struct Options {
  std::string input;
  bool json = false;
};

/// One linear layer, whoever quantised it, or nobody.
struct Entry {
  std::string name;
  std::string format;  // "machete", "gptq", ...; "float"
  std::int64_t n = 0;
  std::int64_t k = 0;
  int bits = 0;
  std::string type;  // of ours; empty where it is none
  std::int64_t group_size = 0;
  std::string next;  // what can be done with it
  bool act_order = false;
  std::vector<Activations> runs = {};
};

/// The names of a layer's tensors.
std::vector<std::string> parts_of(const formats::QuantizedLayer& layer) {
  std::vector<std::string> names;
  for (const formats::TensorInfo& tensor : layer.tensors()) names.push_back(tensor.name);
  return names;
}

/// What is said of a layer of this type: that something works, and if so, where only.
std::string next_step(WeightType type, const std::string& step) {
  bool any = false;
  for (const KernelInfo& kernel : list_kernels()) {
    if (kernel.backend == Backend::kCuda && kernel.w_type == type) return step;
    any = any || kernel.backend == Backend::kCuda;
  }
  return any ? step + " (on the CPU alone)" : step;
}

Result<std::vector<Entry>> entries_of(const Checkpoint& checkpoint) {
  std::vector<Entry> entries;
  if (checkpoint.metadata().count(formats::Manifest::kKey) != 0) {
    const Result<formats::Manifest> manifest = formats::read_manifest(checkpoint);
    if (!manifest.ok()) return manifest.status();
    for (const formats::QuantizedLayer& layer : manifest->layers) {
      entries.push_back({layer.name, "machete", layer.n, layer.k, bits_of(layer.type), std::string(name_of(layer.type)),
                         layer.group_size, next_step(layer.type, "runs"), layer.act_order,
                         activations_of(checkpoint, layer, parts_of(layer))});
    }
    return entries;
  }
  const Result<std::vector<formats::ForeignLayer>> foreign = formats::find_foreign_layers(checkpoint);
  if (!foreign.ok()) return foreign.status();
  for (const formats::ForeignLayer& layer : *foreign) {
    const bool readable = layer.obstacle.empty();
    const std::string note = layer.note.empty() ? "" : "; " + layer.note + ", its tensors decide";
    entries.push_back({layer.name, std::string(layer.format->name), layer.n, layer.k, layer.bits,
                       readable ? std::string(name_of(layer.type)) : std::string(), layer.group_size,
                       readable ? next_step(layer.type, "machete convert") + note : layer.obstacle, layer.act_order,
                       readable ? activations_of(checkpoint, layer, layer.parts) : std::vector<Activations>()});
  }
  const Result<std::vector<formats::Tensor>> linear = find_layers(checkpoint, {});
  if (!linear.ok()) return linear.status();
  for (const formats::Tensor& tensor : *linear) {
    entries.push_back({layer_name(tensor.name), "float", tensor.shape[0], tensor.shape[1],
                       formats::bits_of_dtype(tensor.dtype), "", 0, "machete quantize"});
  }
  return entries;
}

Status inspect(const Options& options) {
  const Result<Checkpoint> checkpoint = Checkpoint::open(options.input);
  if (!checkpoint.ok()) return checkpoint.status();
  const Result<std::vector<Entry>> entries = entries_of(*checkpoint);
  if (!entries.ok()) return entries.status();
  std::int64_t bytes = 0;
  const std::vector<formats::Tensor> tensors = checkpoint->tensors();
  for (const formats::Tensor& tensor : tensors) bytes += static_cast<std::int64_t>(tensor.bytes);

  if (options.json) {
    Json layers = Json::array();
    for (const Entry& entry : *entries) {
      Json runs = Json::array();
      for (const Activations& each : entry.runs) {
        runs.push_back(
            {{"backend", name_of(each.backend)}, {"a_type", name_of(each.type)}, {"round_scales", each.rounds_scales}});
      }
      layers.push_back({{"name", entry.name},
                        {"format", entry.format},
                        {"n", entry.n},
                        {"k", entry.k},
                        {"bits", entry.bits},
                        {"type", entry.type.empty() ? Json() : Json(entry.type)},
                        {"group_size", entry.group_size == 0 ? Json() : Json(entry.group_size)},
                        {"act_order", entry.act_order},
                        {"activations", runs},
                        {"next", entry.next}});
    }
    const Json json = {{"input", checkpoint->path()},
                       {"files", checkpoint->files().size()},
                       {"tensors", tensors.size()},
                       {"bytes", bytes},
                       {"layers", layers}};
    fmt::print("{}\n", json.dump(2));
    return {};
  }
  Table table({{"linear layer", Align::kLeft},
               {"format", Align::kLeft},
               {"shape [N, K]"},
               {"bits"},
               {"type", Align::kLeft},
               {"group"},
               {"activations", Align::kLeft},
               {"next", Align::kLeft}});
  bool rounds = false;
  for (const Entry& entry : *entries) {
    table.row({entry.name,
               entry.format,
               fmt::format("{} × {}", entry.n, entry.k),
               fmt::format("{}", entry.bits),
               entry.type,
               fmt::format("{}{}", entry.group_size == 0 ? "" : fmt::format("{}", entry.group_size),
                           entry.act_order ? " act-order" : ""),
               to_string(entry.runs),
               {entry.next, Tone::kFaint}});
    rounds = rounds || std::any_of(entry.runs.begin(), entry.runs.end(),
                                   [](const Activations& each) { return each.rounds_scales; });
  }
  table.print();
  if (rounds) fmt::print("\n* with --round-scales: scales or zero points have no exact value of the type\n");
  fmt::print("\n{}: {} tensors in {} file{}, {}; {} linear layer{}.\n", checkpoint->path(), tensors.size(),
             checkpoint->files().size(), checkpoint->files().size() == 1 ? "" : "s",
             human_bytes(static_cast<double>(bytes)), entries->size(), entries->size() == 1 ? "" : "s");
  return {};
}

}  // namespace

Command add_inspect(CLI::App& app) {
  CLI::App* command = app.add_subcommand("inspect", "What a checkpoint holds, and what can be done with it");
  command->footer(
      R"(Knows float layers, those that 'machete quantize' wrote, and those of GPTQ, AutoAWQ, compressed-tensors, GGUF,
fp8, MXFP4 and NVFP4.

Examples:
  machete inspect model.safetensors
  machete inspect path/to/model --json)");
  auto options = std::make_shared<Options>();
  add_checkpoint(*command, options->input);
  add_json(*command, options->json);
  return {command, [options] { return inspect(*options); }};
}

}  // namespace machete::tools
