#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "api/memory.h"
#include "command.h"
#include "formats/checkpoint.h"
#include "formats/manifest.h"
#include "layers.h"
#include "machete/machete.h"
#include "options.h"
#include "progress.h"
#include "reference/bound.h"
#include "reference/numeric.h"
#include "reference/quantize.h"
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
  std::string file;
  std::string reference;
  std::int64_t m = 32;
  std::vector<DataType> a_types = {DataType::kBf16, DataType::kF16};
  std::uint64_t seed = 0;
  std::optional<Device> device;
  bool round_scales = false;
  bool json = false;

  Device target() const { return device ? *device : default_device(); }
};

/// How one layer did with one activation type.
struct Run {
  DataType a_type = DataType::kBf16;
  reference::ErrorReport report;
  std::string schedule;
  double us = 0;
  std::string fault;  // why the run failed; empty if it passed
};

struct LayerResult {
  QuantizedLayer layer;
  std::int64_t bytes_before = 0;
  double quantization_error = 0;  // measured where there is a reference, else the manifest's
  std::vector<Run> runs;
  std::string fault;  // of the stored weight

  bool passed() const {
    return fault.empty() && std::all_of(runs.begin(), runs.end(), [](const Run& run) { return run.fault.empty(); });
  }
};

/// Uniform in (-1, 1) with mean zero: sums then cancel, as they do in real layers, and no constant output passes.
std::vector<std::uint8_t> random_activations(DataType type, std::int64_t count, std::uint64_t seed) {
  std::vector<std::uint8_t> values(static_cast<std::size_t>(count) * bytes_of(type));
#pragma omp parallel for
  for (std::int64_t i = 0; i < count; ++i) {
    // splitmix64 of the element's number
    std::uint64_t bits = (seed + 1) * 0x9e3779b97f4a7c15u + static_cast<std::uint64_t>(i) * 0xd1342543de82ef95u;
    bits = (bits ^ bits >> 30) * 0xbf58476d1ce4e5b9u;
    bits = (bits ^ bits >> 27) * 0x94d049bb133111ebu;
    bits ^= bits >> 31;
    const double amplitude = type == DataType::kS8 ? 127 : 1;
    const double value = amplitude * (static_cast<double>(bits >> 11) * 0x1p-52 - 1);
    reference::from_float(type, values.data(), i, static_cast<float>(value));
  }
  return values;
}

/// Median microseconds of a run, after `first` has warmed everything up. CUDA runs are queued many at a time, so that
/// the host does not show.
Result<double> time_runs(const Plan& plan, const Arguments& arguments, void* workspace) {
  using Clock = std::chrono::steady_clock;
  const bool cuda = plan.device().backend == Backend::kCuda;
  const int batch = cuda ? 20 : 1;
  constexpr std::size_t kSamples = 9;
  constexpr double kEnoughUs = 200'000;
  std::vector<double> samples;
  double spent_us = 0;
  while (samples.size() < kSamples && (samples.empty() || spent_us < kEnoughUs)) {
    const Clock::time_point start = Clock::now();
    for (int i = 0; i < batch; ++i) {
      if (Status status = run(plan, arguments, workspace, plan.workspace_size()); !status.ok()) return status;
    }
    if (Status status = memory::synchronize(plan.device(), {}); !status.ok()) return status;
    const double us = std::chrono::duration<double, std::micro>(Clock::now() - start).count();
    spent_us += us;
    samples.push_back(us / batch);
  }
  std::sort(samples.begin(), samples.end());
  return samples[samples.size() / 2];
}

/// Prepacks, plans and runs one layer, and compares with the fp64 product. The output is poisoned with NaN beforehand.
Status run_layer(const reference::QuantizedTensor& weight, const Options& options, Run& result) {
  const Device device = options.target();
  const QuantizedWeight view = weight.view();
  Problem problem;
  problem.m = options.m;
  problem.n = weight.n;
  problem.k = weight.k;
  problem.a_type = result.a_type;
  problem.d_type = bits_of(result.a_type) == 16 ? result.a_type : DataType::kBf16;
  problem.w_type = weight.type;
  problem.group_size = weight.group_size;
  PrepackOptions prepack_options;
  prepack_options.device = device;
  prepack_options.activation_bits = bits_of(result.a_type);
  prepack_options.scale_type = problem.scale_type();
  prepack_options.round_scales = options.round_scales;
  const Result<PackedWeight> packed = prepack(view, prepack_options);
  if (!packed.ok()) return packed.status();
  const Result<UnpackedWeight> unpacked = unpack(*packed);
  if (!unpacked.ok()) return unpacked.status();
  if (unpacked->qweight != weight.qweight) return {StatusCode::kCorrupt, "prepacking and unpacking changed the weight"};
  QuantizedWeight exact = view;  // what the kernel has: of its own scales and zero points
  exact.scales = unpacked->scales.data();
  exact.scale_type = problem.scale_type();
  exact.zero_points = view.zero_points == nullptr ? nullptr : unpacked->zero_points.data();
  exact.zero_point_type = unpacked->zero_point_type;

  PlanOptions plan_options;
  plan_options.device = device;
  const Result<Plan> chosen = plan(problem, plan_options);
  if (!chosen.ok()) return chosen.status();
  result.schedule = chosen->schedule();

  const std::vector<std::uint8_t> a = random_activations(problem.a_type, problem.m * problem.k, options.seed);
  std::vector<std::uint8_t> d(static_cast<std::size_t>(problem.m * problem.n) * bytes_of(problem.d_type), 0xff);
  const auto a_memory = memory::allocate(device, a.size());
  const auto d_memory = memory::allocate(device, d.size());
  const auto workspace = memory::allocate(device, chosen->workspace_size());
  for (const auto* allocation : {&a_memory, &d_memory, &workspace}) {
    if (!allocation->ok()) return allocation->status();
  }
  const Device cpu = Device::cpu();
  if (Status s = memory::copy(a_memory->get(), device, a.data(), cpu, a.size()); !s.ok()) return s;
  if (Status s = memory::copy(d_memory->get(), device, d.data(), cpu, d.size()); !s.ok()) return s;

  Arguments arguments;
  arguments.a = a_memory->get();
  arguments.weight = &*packed;
  arguments.d = d_memory->get();
  if (Status s = run(*chosen, arguments, workspace->get(), chosen->workspace_size()); !s.ok()) return s;
  if (Status s = memory::synchronize(device, {}); !s.ok()) return s;
  if (Status s = memory::copy(d.data(), cpu, d_memory->get(), device, d.size()); !s.ok()) return s;
  result.report = reference::check_linear(problem, a.data(), exact, d.data());
  if (!result.report.passed) {
    result.fault = fmt::format(
        "element ({}, {}) is off by {:.3g} times its bound; repeat: machete verify {} --m {} --a "
        "{} --device {} --seed {}{}",
        result.report.worst_m, result.report.worst_n, result.report.max_ratio, options.file, options.m,
        name_of(result.a_type), to_string(device), options.seed, options.round_scales ? " --round-scales" : "");
  }
  const Result<double> us = time_runs(*chosen, arguments, workspace->get());
  if (!us.ok()) return us.status();
  result.us = *us;
  return {};
}

/// Compares a layer with the tensor it was made of.
Status compare_with_reference(const Checkpoint& reference, const reference::QuantizedTensor& weight,
                              LayerResult& result) {
  const QuantizedLayer& layer = result.layer;
  const Tensor* source = reference.find(layer.source);
  if (source == nullptr || source->shape != std::vector<std::int64_t>{layer.n, layer.k}) {
    return {
        StatusCode::kInvalidArgument,
        fmt::format("{}: {}, but layer {} was made of {} of shape [{}, {}]; name the checkpoint that was quantised",
                    reference.path(),
                    source == nullptr ? "there is no such tensor" : "its shape is " + formats::to_string(source->shape),
                    formats::quote(layer.name), formats::quote(layer.source), layer.n, layer.k)};
  }
  const Result<std::vector<float>> original = formats::to_floats(*source);
  if (!original.ok()) return original.status();
  result.bytes_before = static_cast<std::int64_t>(source->bytes);
  result.quantization_error = quantization_error(original->data(), weight.view()).relative();
  // Summed in another order on another machine, the two agree to far more digits than this.
  if (!(std::abs(result.quantization_error - layer.error) <= 1e-6 * layer.error + 1e-12)) {
    result.fault = fmt::format(
        "the quantisation error is {:.6g}, but the manifest says {:.6g}: the file is damaged, or "
        "made of another checkpoint",
        result.quantization_error, layer.error);
  }
  return {};
}

/// Tensors that were not quantised must be those of the reference, byte for byte. Returns what differs.
std::vector<std::string> compare_kept(const Checkpoint& checkpoint, const Checkpoint& reference,
                                      const Manifest& manifest, std::size_t& same) {
  std::set<std::string> quantised, sources;
  for (const QuantizedLayer& layer : manifest.layers) {
    sources.insert(layer.source);
    for (const auto& tensor : layer.tensors()) quantised.insert(tensor.name);
  }
  std::vector<std::string> faults;
  for (const Tensor& tensor : checkpoint.tensors()) {
    if (quantised.count(tensor.name) != 0) continue;
    const Tensor* original = reference.find(tensor.name);
    if (original == nullptr) {
      faults.push_back(fmt::format("tensor {}: is not in the reference", formats::quote(tensor.name)));
    } else if (original->dtype != tensor.dtype || original->shape != tensor.shape ||
               (tensor.bytes != 0 && std::memcmp(original->data, tensor.data, tensor.bytes) != 0)) {
      faults.push_back(fmt::format("tensor {}: differs from the reference", formats::quote(tensor.name)));
    } else {
      ++same;
    }
  }
  for (const Tensor& tensor : reference.tensors()) {
    if (sources.count(tensor.name) == 0 && checkpoint.find(tensor.name) == nullptr) {
      faults.push_back(fmt::format("tensor {}: is missing", formats::quote(tensor.name)));
    }
  }
  return faults;
}

struct Outcome {
  std::string path;
  Device device;
  bool has_reference = false;
  std::vector<LayerResult> layers;
  std::size_t same_tensors = 0;     // as in the reference
  std::vector<std::string> faults;  // everything that failed, in words
};

Result<Outcome> verify_layers(const Options& options) {
  const Result<Checkpoint> checkpoint = Checkpoint::open(options.file);
  if (!checkpoint.ok()) return checkpoint.status();
  const Result<Manifest> manifest = formats::read_manifest(*checkpoint);
  if (!manifest.ok()) return manifest.status();
  std::optional<Checkpoint> reference;
  if (!options.reference.empty()) {
    Result<Checkpoint> opened = Checkpoint::open(options.reference);
    if (!opened.ok()) return opened.status();
    reference = *std::move(opened);
  }

  Outcome outcome;
  outcome.path = checkpoint->path();
  outcome.device = options.target();
  outcome.has_reference = reference.has_value();
  std::int64_t elements = 0;
  for (const QuantizedLayer& layer : manifest->layers) elements += layer.n * layer.k;
  Progress progress("verifying", elements);
  for (const QuantizedLayer& layer : manifest->layers) {
    progress.begin(layer.name);
    LayerResult result;
    result.layer = layer;
    result.quantization_error = layer.error;
    result.bytes_before = layer.n * layer.k * (formats::bits_of_dtype(layer.source_dtype) / 8);
    const reference::QuantizedTensor weight = formats::read_layer(*checkpoint, layer);
    if (reference) {
      if (Status status = compare_with_reference(*reference, weight, result); !status.ok()) return status;
    }
    for (DataType a_type : options.a_types) {
      Run run;
      run.a_type = a_type;
      if (const Status status = run_layer(weight, options, run); !status.ok()) run.fault = status.message();
      if (!run.fault.empty()) {
        outcome.faults.push_back(fmt::format("layer {}, {}: {}", layer.name, name_of(a_type), run.fault));
      }
      result.runs.push_back(std::move(run));
    }
    if (!result.fault.empty()) outcome.faults.push_back(fmt::format("layer {}: {}", layer.name, result.fault));
    outcome.layers.push_back(std::move(result));
    progress.advance(layer.n * layer.k);
  }
  if (reference) {
    for (std::string& fault : compare_kept(*checkpoint, *reference, *manifest, outcome.same_tensors)) {
      outcome.faults.push_back(std::move(fault));
    }
  }
  return outcome;
}

void print_json(const Options& options, const Outcome& outcome) {
  Json layers = Json::array();
  for (const LayerResult& result : outcome.layers) {
    Json runs = Json::array();
    for (const Run& run : result.runs) {
      runs.push_back({{"a_type", name_of(run.a_type)},
                      {"backend", name_of(outcome.device.backend)},
                      {"schedule", run.schedule},
                      {"us", run.us},
                      {"error_over_bound", run.report.max_ratio},  // null where infinite
                      {"rel_frobenius", run.report.rel_frobenius},
                      {"passed", run.fault.empty()},
                      {"fault", run.fault.empty() ? Json() : Json(run.fault)}});
    }
    layers.push_back({{"name", result.layer.name},
                      {"n", result.layer.n},
                      {"k", result.layer.k},
                      {"type", name_of(result.layer.type)},
                      {"group_size", result.layer.group_size},
                      {"bits_per_weight", result.layer.bits_per_weight()},
                      {"bytes_before", result.bytes_before},
                      {"bytes_after", result.layer.bytes()},
                      {"quantization_error", result.quantization_error},
                      {"runs", runs},
                      {"passed", result.passed()}});
  }
  const Json json = {{"file", outcome.path},
                     {"reference", options.reference.empty() ? Json() : Json(options.reference)},
                     {"device", to_string(outcome.device)},
                     {"m", options.m},
                     {"seed", options.seed},
                     {"layers", layers},
                     {"tensors_as_in_reference", outcome.has_reference ? Json(outcome.same_tensors) : Json()},
                     {"faults", outcome.faults},
                     {"passed", outcome.faults.empty()}};
  fmt::print("{}\n", json.dump(2, ' ', false, Json::error_handler_t::replace));
}

/// The schedules of a layer's runs: one name where they agree.
std::string schedules_of(const LayerResult& result) {
  std::string text;
  for (const Run& run : result.runs) {
    if (text == run.schedule) continue;
    text += (text.empty() ? "" : ", ") + run.schedule;
  }
  return text;
}

void print_table(const Options& options, const Outcome& outcome) {
  std::vector<Table::Column> columns = {{"layer", Align::kLeft}, {"shape\n[N, K]"}, {"bits/\nweight"},
                                        {"size\nbefore"},        {"size\nafter"},   {"quant.\nerror"}};
  for (DataType type : options.a_types) {
    for (const char* what : {"err/bound", "rel. err", "time"}) {
      columns.push_back({fmt::format("{}\n{}", name_of(type), what)});
    }
  }
  columns.push_back({"schedule", Align::kLeft});
  Table table(std::move(columns));

  std::vector<double> worst(options.a_types.size()), us(options.a_types.size());
  std::int64_t elements = 0, before = 0, after = 0;
  const auto size = [](std::int64_t bytes) { return human_bytes(static_cast<double>(bytes)); };
  for (const LayerResult& result : outcome.layers) {
    const QuantizedLayer& layer = result.layer;
    std::vector<Table::Cell> cells = {
        layer.name,
        fmt::format("{} × {}", layer.n, layer.k),
        fmt::format("{:.2f}", layer.bits_per_weight()),
        size(result.bytes_before),
        size(layer.bytes()),
        {fmt::format("{:.2f}%", 100 * result.quantization_error), result.fault.empty() ? Tone::kPlain : Tone::kBad}};
    for (std::size_t i = 0; i < result.runs.size(); ++i) {
      const Run& run = result.runs[i];
      const bool ran = run.us > 0;
      const Tone tone = run.fault.empty() ? Tone::kGood : Tone::kBad;
      cells.emplace_back(ran ? fmt::format("{:.3f}", run.report.max_ratio) : "failed", tone);
      cells.emplace_back(ran ? fmt::format("{:.1e}", run.report.rel_frobenius) : "");
      cells.emplace_back(ran ? human_us(run.us) : "");
      worst[i] = std::max(worst[i], run.report.max_ratio);
      us[i] += run.us;
    }
    cells.emplace_back(schedules_of(result), Tone::kFaint);
    table.row(std::move(cells));
    elements += layer.n * layer.k;
    before += result.bytes_before;
    after += layer.bytes();
  }
  table.rule();
  std::vector<Table::Cell> total = {
      {fmt::format("{} layers", outcome.layers.size()), Tone::kStrong},
      "",
      elements == 0 ? "" : fmt::format("{:.2f}", 8.0 * static_cast<double>(after) / static_cast<double>(elements)),
      size(before),
      size(after),
      ""};
  for (std::size_t i = 0; i < worst.size(); ++i) {
    total.emplace_back(fmt::format("max {:.3f}", worst[i]));
    total.emplace_back("");
    total.emplace_back(human_us(us[i]));
  }
  table.row(std::move(total));

  fmt::print("{} on {}, {} tokens of random activations\n\n", outcome.path, to_string(outcome.device), options.m);
  table.print();
  fmt::print(
      "\nerr/bound: the worst element's distance from fp64, as a fraction of what rounding explains; above 1 fails\n"
      "rel. err: |D - reference| / |reference|; quant. error: |W - quantised W| / |W|{}\n",
      outcome.has_reference ? "" : ", as the file says; --reference ORIGINAL measures it");
}

Status verify(const Options& options) {
  const Result<Outcome> outcome = verify_layers(options);
  if (!outcome.ok()) return outcome.status();
  if (options.json) {
    print_json(options, *outcome);
  } else {
    print_table(options, *outcome);
  }
  const bool colour = use_colour(stdout);
  constexpr std::size_t kMostFaults = 10;
  if (!outcome->faults.empty()) {
    if (!options.json) {
      fmt::print("\n");
      for (std::size_t i = 0; i < std::min(outcome->faults.size(), kMostFaults); ++i) {
        fmt::print("{} {}\n", paint("failed:", Tone::kBad, colour), outcome->faults[i]);
      }
    }
    return {StatusCode::kCorrupt, fmt::format("{}: {} checks failed, the first: {}", outcome->path,
                                              outcome->faults.size(), outcome->faults.front())};
  }
  if (!options.json) {
    const std::string same =
        outcome->has_reference ? fmt::format(", and {} other tensors are as they were", outcome->same_tensors) : "";
    fmt::print("{} all {} layers are within their bounds{}.\n", paint("passed:", Tone::kGood, colour),
               outcome->layers.size(), same);
  }
  return {};
}

}  // namespace

Command add_verify(CLI::App& app) {
  CLI::App* command = app.add_subcommand("verify", "Runs every layer of a quantised checkpoint and checks the results");
  command->footer(
      R"(Each layer is read back, prepacked, run on random activations, and compared with the exact product in fp64, element by
element. With the original beside it, the quantisation error is measured too, and tensors that were not quantised must
be unchanged. Exit status 1 if anything fails.

Examples:
  machete verify model-u4b8.safetensors
  machete verify model-u4b8.safetensors --reference model.safetensors --m 1
  machete verify model-u4b8.safetensors --a bf16 --device cpu --json)");
  auto options = std::make_shared<Options>();
  command->add_option("FILE", options->file, "what 'machete quantize' wrote")->required()->option_text(" ");
  command->add_option("--reference", options->reference, "the checkpoint it was made of")->type_name("ORIGINAL");
  command->add_option("--m", options->m, "tokens; default 32")->check(CLI::Range(1, 65536))->option_text("M");
  add_a_types(*command, options->a_types)->description("activation types: bf16, f16, s8, e4m3; default bf16, f16");
  command->add_option("--seed", options->seed, "of the activations; default 0")->type_name("SEED");
  command->add_flag("--round-scales", options->round_scales,
                    "round scales and zero points that the activation type cannot hold, instead of refusing them");
  add_device(*command, options->device);
  add_json(*command, options->json);
  return {command, [options] { return verify(*options); }};
}

}  // namespace machete::tools
