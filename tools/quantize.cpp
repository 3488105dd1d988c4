#include "reference/quantize.h"

#include <fmt/format.h>

#include <cstdint>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "command.h"
#include "formats/checkpoint.h"
#include "formats/manifest.h"
#include "layers.h"
#include "options.h"
#include "rewrite.h"
#include "table.h"

namespace machete::tools {
namespace {

using Align = Table::Align;
using Json = nlohmann::ordered_json;
using formats::Checkpoint;
using formats::Manifest;
using formats::QuantizedLayer;
using formats::Tensor;

struct Options {
  std::string input;
  std::string output;
  reference::QuantizeOptions quantize;
  LayerFilter filter;
  bool no_search = false;
  bool dry_run = false;
  bool json = false;
};

/// What shall be done: which tensors become layers, which stay.
struct Work : Rewrite {
  std::vector<Tensor> sources;  // of the manifest's layers, one each
  std::int64_t kept_bytes = 0;
  QuantizationError error;  // of all layers
};

Result<Work> prepare(const Checkpoint& checkpoint, const Options& options) {
  if (checkpoint.metadata().count(Manifest::kKey) != 0) {
    return Status(StatusCode::kInvalidArgument,
                  fmt::format("{}: is quantised already; start from the original", checkpoint.path()));
  }
  Result<std::vector<Tensor>> sources = find_layers(checkpoint, options.filter);
  if (!sources.ok()) return sources.status();
  if (sources->empty()) {
    return Status(StatusCode::kInvalidArgument,
                  fmt::format("{}: holds no linear layer by the rule of 'machete quantize --help'; choose some with "
                              "--only GLOB",
                              checkpoint.path()));
  }
  Work work;
  std::map<std::string, bool> chosen;
  for (const Tensor& source : *sources) {
    QuantizedLayer layer;
    layer.name = layer_name(source.name);
    layer.source = source.name;
    layer.source_dtype = source.dtype;
    layer.type = options.quantize.type;
    layer.n = source.shape[0];
    layer.k = source.shape[1];
    layer.group_size = options.quantize.group_size;
    layer.scale_type = options.quantize.scale_type;
    work.manifest.layers.push_back(std::move(layer));
    chosen.emplace(source.name, true);
  }
  for (Tensor& tensor : checkpoint.tensors()) {
    if (chosen.count(tensor.name) != 0) continue;
    work.kept_bytes += static_cast<std::int64_t>(tensor.bytes);
    work.kept.push_back(std::move(tensor));
  }
  work.sources = *std::move(sources);
  return work;
}

/// Quantises one layer, and notes its error.
Result<reference::QuantizedTensor> quantize_layer(const Tensor& source, const reference::QuantizeOptions& options,
                                                  QuantizedLayer& layer, QuantizationError& total) {
  const Result<std::vector<float>> weight = formats::to_floats(source);
  if (!weight.ok()) return weight.status();
  Result<reference::QuantizedTensor> quantized = reference::quantize(weight->data(), layer.n, layer.k, options);
  if (!quantized.ok()) {
    return Status(quantized.status().code(),
                  fmt::format("tensor {}: {}", formats::quote(source.name), quantized.status().message()));
  }
  const QuantizationError error = quantization_error(weight->data(), quantized->view());
  layer.error = error.relative();
  total += error;
  return quantized;
}

struct Totals {
  std::int64_t elements = 0, before = 0, after = 0;  // of the layers
  double bits_per_weight() const { return 8.0 * static_cast<double>(after) / static_cast<double>(elements); }
};

Totals total_of(const Work& work) {
  Totals totals;
  for (std::size_t i = 0; i < work.sources.size(); ++i) {
    totals.elements += work.manifest.layers[i].n * work.manifest.layers[i].k;
    totals.before += static_cast<std::int64_t>(work.sources[i].bytes);
    totals.after += work.manifest.layers[i].bytes();
  }
  return totals;
}

void print_json(const Checkpoint& checkpoint, const Options& options, const Work& work) {
  const auto or_null = [&](double error) { return options.dry_run ? Json() : Json(error); };
  Json layers = Json::array();
  for (std::size_t i = 0; i < work.sources.size(); ++i) {
    const QuantizedLayer& layer = work.manifest.layers[i];
    layers.push_back({{"name", layer.name},
                      {"n", layer.n},
                      {"k", layer.k},
                      {"source_dtype", layer.source_dtype},
                      {"bits_per_weight", layer.bits_per_weight()},
                      {"bytes_before", work.sources[i].bytes},
                      {"bytes_after", layer.bytes()},
                      {"quantization_error", or_null(layer.error)}});
  }
  const Totals totals = total_of(work);
  const Json json = {{"input", checkpoint.path()},
                     {"output", options.dry_run ? Json() : Json(options.output)},
                     {"type", name_of(options.quantize.type)},
                     {"group_size", options.quantize.group_size},
                     {"scale_type", name_of(options.quantize.scale_type)},
                     {"layers", layers},
                     {"total",
                      {{"layers", work.sources.size()},
                       {"kept_tensors", work.kept.size()},
                       {"kept_bytes", work.kept_bytes},
                       {"bits_per_weight", totals.bits_per_weight()},
                       {"bytes_before", totals.before},
                       {"bytes_after", totals.after},
                       {"quantization_error", or_null(work.error.relative())}}}};
  fmt::print("{}\n", json.dump(2));
}

void print_table(const Checkpoint& checkpoint, const Options& options, const Work& work) {
  const auto percent = [&](double error) { return options.dry_run ? "" : fmt::format("{:.2f}%", 100 * error); };
  const auto size = [](std::int64_t bytes) { return human_bytes(static_cast<double>(bytes)); };
  Table table({{"layer", Align::kLeft}, {"shape [N, K]"}, {"bits/weight"}, {"before"}, {"after"}, {"quant. error"}});
  for (std::size_t i = 0; i < work.sources.size(); ++i) {
    const QuantizedLayer& layer = work.manifest.layers[i];
    table.row({layer.name, fmt::format("{} × {}", layer.n, layer.k), fmt::format("{:.2f}", layer.bits_per_weight()),
               size(static_cast<std::int64_t>(work.sources[i].bytes)), size(layer.bytes()), percent(layer.error)});
  }
  const Totals totals = total_of(work);
  table.rule();
  table.row({{fmt::format("{} linear layers", work.sources.size()), Tone::kStrong},
             "",
             fmt::format("{:.2f}", totals.bits_per_weight()),
             size(totals.before),
             size(totals.after),
             percent(work.error.relative())});
  table.row({fmt::format("{} other tensors, kept as they are", work.kept.size()), "", "", size(work.kept_bytes),
             size(work.kept_bytes), ""});
  table.row({{"all", Tone::kStrong},
             "",
             "",
             size(work.kept_bytes + totals.before),
             size(work.kept_bytes + totals.after),
             ""});
  table.print();
  if (options.dry_run) {
    fmt::print("\nA dry run: nothing was written.\n");
  } else {
    fmt::print("\nWrote {}. Check it: machete verify {} --reference {}\n", options.output, options.output,
               checkpoint.path());
  }
}

Status quantize(const Options& options) {
  const Result<Checkpoint> checkpoint = Checkpoint::open(options.input);
  if (!checkpoint.ok()) return checkpoint.status();
  Result<Work> work = prepare(*checkpoint, options);
  if (!work.ok()) return work.status();
  if (!options.dry_run) {
    const auto make = [&](std::size_t i) {
      return quantize_layer(work->sources[i], options.quantize, work->manifest.layers[i], work->error);
    };
    const Status status = write_checkpoint(*checkpoint, options.output, "quantising", *work, make);
    if (!status.ok()) return status;
  }
  if (options.json) {
    print_json(*checkpoint, options, *work);
  } else {
    print_table(*checkpoint, options, *work);
  }
  return {};
}

}  // namespace

Command add_quantize(CLI::App& app) {
  CLI::App* command =
      app.add_subcommand("quantize", "Quantises the linear layers of a safetensors checkpoint to 4 bits");
  command->footer(std::string(kLayerRule) + R"(

Each becomes NAME.qweight, NAME.scales (and NAME.zero_points for u4 and u8); all other tensors stay as they are, and a manifest
in the file's metadata says what is what. The quantisation error is |W - quantised W| / |W| (Frobenius norms).

Examples:
  machete quantize model.safetensors -o model-u4b8.safetensors
  machete quantize model.safetensors.index.json -o model-u4b8.safetensors --group-size 64
  machete quantize model.safetensors --dry-run --skip '*.down_proj')");
  auto options = std::make_shared<Options>();
  add_checkpoint(*command, options->input);
  command->add_option("-o,--output", options->output, "the .safetensors file to write")->type_name("FILE");
  add_weight_type(*command, options->quantize.type);
  add_group_size(*command, options->quantize.group_size);
  command->add_option("--only", options->filter.only, "quantise these, whatever their names; may be repeated")
      ->allow_extra_args(false)
      ->option_text("GLOB");
  command->add_option("--skip", options->filter.skip, "leave these alone; may be repeated")
      ->allow_extra_args(false)
      ->option_text("GLOB");
  command->add_flag("--no-search", options->no_search, "take scales from the largest value; faster, less exact");
  command->add_flag("--dry-run", options->dry_run, "show what would be quantised, write nothing");
  add_json(*command, options->json);
  command->callback([options] {
    if (options->output.empty() && !options->dry_run) throw CLI::RequiredError("--output (or --dry-run)");
  });
  return {command, [options] {
            options->quantize.search = !options->no_search;
            return quantize(*options);
          }};
}

}  // namespace machete::tools
