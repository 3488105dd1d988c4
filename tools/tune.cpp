#include <CLI/CLI.hpp>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "command.h"
#include "machete/types.h"
#include "options.h"
#include "tuning/measurement.h"

#if defined(MACHETE_HAS_CUDA)
#include <fmt/format.h>

#include <cstdio>

#include "bench/tune.h"
#include "build_info.h"
#include "progress.h"
#include "tuning/tune.h"
#endif

namespace machete::tools {
namespace {

struct Options {
  std::vector<std::string> suites;
  std::vector<tuning::Size> sizes;
  std::vector<std::int64_t> ms = tuning::default_ms();
  std::vector<DataType> a_types = {DataType::kBf16};
  WeightType w_type = WeightType::kU4b8;
  std::int64_t group_size = 128;
  int top = 14;
  std::vector<std::string> without;
  std::string merge;
  std::string output;
  std::optional<Device> device;
};

#if defined(MACHETE_HAS_CUDA)

Status tune_on_gpu(const Options& options) {
  const Device device = options.device ? *options.device : Device::cuda();
  if (device.backend != Backend::kCuda) {
    return {StatusCode::kUnsupported, "--device cpu: tables are measured on CUDA kernels; take cuda or cuda:NUMBER"};
  }
  tuning::Request request;
  request.path = options.output;
  if (!options.merge.empty()) {
    Result<tuning::TableFile> kept = tuning::read_table(options.merge);
    if (!kept.ok()) return kept.status();
    request.kept = *kept;
  }
  tuning::Setting& setting = request.setting;
  setting.sizes = options.sizes;
  if (setting.sizes.empty() || !options.suites.empty()) {
    const Result<std::vector<tuning::Size>> sizes = bench::sizes_of_suites(options.suites);
    if (!sizes.ok()) return sizes.status();
    setting.sizes.insert(setting.sizes.end(), sizes->begin(), sizes->end());
  }
  setting.ms = options.ms;
  setting.w_type = options.w_type;
  setting.a_type = options.a_types.front();
  setting.group_size = options.group_size;
  setting.top = options.top;
  setting.without = options.without;
  setting.commit = build_info::kCommit;
  setting.date = bench::today();

  bench::Tuner tuner;
  if (Status status = tuner.set_up(setting, device.ordinal); !status.ok()) return status;

  std::optional<Progress> progress;
  const auto measure = [&](const tuning::Point& point) { return tuner.measure(point); };
  const auto watch = [&](const tuning::Point& point, std::int64_t left) {
    if (progress.has_value()) {
      progress->advance(1);
    } else {
      progress.emplace("tune", left);
    }
    progress->begin(fmt::format("N={} K={} M={}{}", point.n, point.k, point.m, point.overlap ? ", dependent" : ""));
  };
  const Status status = tuning::tune(request, measure, watch);
  progress.reset();
  if (!status.ok()) return status;
  fmt::print(stderr, "the table is in {}, what was measured for it in {}\n", request.path,
             tuning::measurements_path(request.path));
  return {};
}

#else

Status tune_on_gpu(const Options&) {
  return {StatusCode::kUnsupported,
          "this build has no CUDA backend, and tables are measured on CUDA kernels; build where nvcc 12.8 or newer is "
          "installed (cmake -D MACHETE_CUDA=ON)"};
}

#endif

}  // namespace

Command add_tune(CLI::App& app) {
  CLI::App* command = app.add_subcommand("tune", "Measures which schedules are best, and writes a tuning table (GPU)");
  command->footer(
      R"(Times the schedules of every shape at every number of tokens, and up to 64 tokens also with dependent launch. What is
measured goes to FILE.partial, line by line: a run that was cut short goes on from there when it is started again. When
the table is written, that file is kept as FILE.measurements. The build takes up tables that lie in tuning/.

Examples:
  machete tune -o tuning/h100.json
  machete tune --type u8b128 --suite llama8b -o tuning/h100-u8b128.json
  machete tune --a s8 -o tuning/h100-s8.json
  machete tune --shape 12288x4096 --merge tuning/h100.json -o tuning/h100.json)");
  auto options = std::make_shared<Options>();
  command->add_option("-o,--output", options->output, "the table")->required()->type_name("FILE");
  command
      ->add_option("--suite", options->suites,
                   "shapes of llama8b, llama70b, square, deepseek, odd; default all, unless shapes are given")
      ->delimiter(',')
      ->allow_extra_args(false)
      ->option_text("NAME,...");
  command
      ->add_option_function<std::vector<std::string>>(
          "--shape",
          [options](const std::vector<std::string>& texts) {
            for (const std::string& text : texts) {
              const Result<tuning::Size> size = tuning::parse_size(text);
              if (!size.ok()) throw CLI::ValidationError("--shape", size.status().message());
              options->sizes.push_back(*size);
            }
          },
          "output times input features")
      ->delimiter(',')
      ->allow_extra_args(false)
      ->option_text("NxK,...");
  command->add_option("--m", options->ms, "numbers of tokens; default those of tuning/README.md, 1 to 8192")
      ->delimiter(',')
      ->check(CLI::Range(1, 1 << 20))
      ->allow_extra_args(false)
      ->option_text("M,...");
  add_a_types(*command, options->a_types)
      ->description("activation type: bf16, f16, s8 or e4m3; default bf16; bf16 and f16 share a table")
      ->expected(1)
      ->option_text("TYPE");
  add_weight_type(*command, options->w_type);
  add_group_size(*command, options->group_size);
  command
      ->add_option("--top", options->top,
                   "schedules a problem, best by the planner's estimate, besides the one that its table names; "
                   "default 14")
      ->check(CLI::Range(1, 1000))
      ->option_text("COUNT");
  command->add_option("--except", options->without, "families left out: gemm, batch, turns, decode")
      ->delimiter(',')
      ->check(CLI::IsMember({"gemm", "batch", "turns", "decode"}))
      ->allow_extra_args(false)
      ->option_text("FAMILY,...");
  command
      ->add_option("--merge", options->merge,
                   "a table of the same types whose entries stay, for shapes and tokens that are not measured")
      ->type_name("TABLE");
  add_device(*command, options->device)->description("cuda or cuda:NUMBER; default cuda:0");
  return {command, [options] { return tune_on_gpu(*options); }};
}

}  // namespace machete::tools
