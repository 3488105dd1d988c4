#include <CLI/CLI.hpp>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "command.h"
#include "host_cost.h"
#include "machete/types.h"
#include "options.h"

#if defined(MACHETE_HAS_CUDA)
#include "bench/bench.h"
#include "bench/tokens.h"
#include "build_info.h"
#endif

namespace machete::tools {
namespace {

struct Options {
  std::vector<std::string> suites;
  std::vector<std::string> linears;
  std::vector<std::int64_t> ms;
  std::vector<DataType> a_types;
  WeightType w_type = WeightType::kU4b8;
  std::vector<std::int64_t> group_sizes = {128};
  std::string json_path;
  std::map<std::string, std::string> schedules;
  bool all_schedules = false;
  int top = 0;
  Epilogue epilogue;
  bool overlap = false;
  bool batch_invariant = false;
  bool fast_accumulation = false;
  bool act_order = false;
  bool neighbours = false;
  bool timeline = false;
  bool no_cublas = false;
  bool no_check = false;
  bool host_cost = false;
  bool tokens = false;
  std::optional<Device> device;
};

// NAME or LINEAR=NAME. A linear, or those that are not named, can be told one schedule.
void add_schedule(const std::string& text, std::map<std::string, std::string>& schedules) {
  const std::size_t mark = text.find('=');
  const std::string linear = mark == std::string::npos ? "" : text.substr(0, mark);
  const std::string name = mark == std::string::npos ? text : text.substr(mark + 1);
  if (name.empty()) throw CLI::ValidationError("--schedule", "'" + text + "' names no schedule; write LINEAR=NAME");
  if (!schedules.emplace(linear, name).second) {
    throw CLI::ValidationError("--schedule", "'" + text + "' is a second schedule for " +
                                                 (linear.empty() ? "the linears that are not named" : linear) +
                                                 "; leave one out");
  }
}

#if defined(MACHETE_HAS_CUDA)

Status bench_on_gpu(const Options& options) {
  const Device device = options.device ? *options.device : Device::cuda();
  if (device.backend != Backend::kCuda) {
    return {StatusCode::kUnsupported, "--device cpu: the benchmark times CUDA kernels; take cuda or cuda:NUMBER"};
  }
  if (options.tokens)
    return bench::run_token_bench({options.ms, options.json_path, device.ordinal, build_info::kCommit});
  bench::BenchOptions bench;
  bench.suites = options.suites;
  bench.linears = options.linears;
  bench.ms = options.ms;
  bench.a_types = options.a_types;
  bench.w_type = options.w_type;
  bench.group_sizes = options.group_sizes;
  bench.json_path = options.json_path;
  bench.schedules = options.schedules;
  bench.all_schedules = options.all_schedules;
  bench.top = options.top;
  bench.epilogue = options.epilogue;
  bench.overlap = options.overlap;
  bench.batch_invariant = options.batch_invariant;
  bench.fast_accumulation = options.fast_accumulation;
  bench.act_order = options.act_order;
  bench.neighbours = options.neighbours;
  bench.timeline = options.timeline;
  bench.cublas = !options.no_cublas;
  bench.check = !options.no_check;
  bench.device = device.ordinal;
  bench.commit = build_info::kCommit;
  return bench::run_bench(bench);
}

#else

Status bench_on_gpu(const Options&) {
  return {StatusCode::kUnsupported,
          "this build has no CUDA backend, and the benchmark times CUDA kernels; build where nvcc 12.8 or newer is "
          "installed (cmake -D MACHETE_CUDA=ON)"};
}

#endif

Status host_cost(const Options& options) {
  return print_host_cost(options.device ? *options.device : default_device(), options.json_path);
}

}  // namespace

Command add_bench(CLI::App& app) {
  CLI::App* command = app.add_subcommand("bench", "Times the kernels beside cuBLAS and a read-only stream (GPU)");
  command->footer(
      R"(Times come from CUDA graphs, with weights rotated past the L2 cache; they are medians. Every result is checked
before it is timed.

Examples:
  machete bench
  machete bench --suite llama8b,square --m 1,16,256 --a bf16 --json results.json
  machete bench --suite llama8b --m 1 --all-schedules
  machete bench --suite llama8b --m 16 --overlap --schedule gate_up=batch_64x16x128
  machete bench --suite llama8b --m 16 --a bf16 --overlap --timeline)");
  auto options = std::make_shared<Options>();
  command->add_option("--suite", options->suites, "llama8b, llama70b, square, deepseek, odd; default llama8b")
      ->delimiter(',')
      ->allow_extra_args(false)
      ->option_text("NAME,...");
  command->add_option("--linear", options->linears, "of the suites only these, by name; default all, and the chain")
      ->delimiter(',')
      ->allow_extra_args(false)
      ->option_text("NAME,...");
  command->add_option("--m", options->ms, "numbers of tokens; default 1, 2, 4, ..., 8192")
      ->delimiter(',')
      ->check(CLI::Range(1, 1 << 24))
      ->allow_extra_args(false)
      ->option_text("M,...");
  add_a_types(*command, options->a_types)->description("activation types: bf16, f16, s8, e4m3; default bf16, f16");
  add_weight_type(*command, options->w_type);
  command->add_option("--group-size", options->group_sizes, "multiples of 16, or -1; default 128")
      ->delimiter(',')
      ->allow_extra_args(false)
      ->option_text("SIZE,...");
  CLI::Option* schedule = command
                              ->add_option_function<std::vector<std::string>>(
                                  "--schedule",
                                  [options](const std::vector<std::string>& texts) {
                                    for (const std::string& text : texts) add_schedule(text, options->schedules);
                                  },
                                  "force this schedule where it serves, or those of linears by name")
                              ->delimiter(',')
                              ->allow_extra_args(false)
                              ->option_text("NAME or LINEAR=NAME,...");
  command->add_flag("--all-schedules", options->all_schedules, "a row for every schedule that serves a problem")
      ->excludes(schedule)
      ->option_text(" ");
  command->add_option("--top", options->top, "with --all-schedules: only so many, best by the planner's estimate")
      ->check(CLI::Range(1, 1000))
      ->option_text("COUNT");
  command
      ->add_option_function<std::string>(
          "--epilogue",
          [options](const std::string& steps) {
            const Result<Epilogue> epilogue = parse_epilogue(steps);
            if (!epilogue.ok()) throw CLI::ValidationError("--epilogue", epilogue.status().message());
            options->epilogue = *epilogue;
          },
          "of every linear, whose results are then not checked: bias+silu, swiglu, ...; default none")
      ->option_text("STEPS");
  add_plan_flags(*command, options->overlap, options->batch_invariant);
  add_fast_accumulation(*command, options->fast_accumulation);
  command->add_flag("--act-order", options->act_order, "weights whose groups are mixed along K (g_idx)");
  command
      ->add_flag("--neighbours", options->neighbours,
                 "chains alone, with a norm or an attention between linears: plain launches and --overlap")
      ->option_text(" ");
  command->add_flag("--timeline", options->timeline,
                    "print when the CTAs of each chain's kernels start, wait, are done");
  command->add_flag("--no-cublas", options->no_cublas, "do not time cuBLAS");
  command->add_flag("--no-check", options->no_check, "do not check results");
  command
      ->add_flag("--host-cost", options->host_cost, "what plan and run of a 16x16 linear cost the host, on any device")
      ->option_text(" ");
  command->add_flag("--tokens", options->tokens, "quantising activations token by token, instead of linears")
      ->option_text(" ");
  add_device(*command, options->device)->description("cuda or cuda:NUMBER; default cuda:0; of --host-cost also cpu");
  command->add_option("--json", options->json_path, "write the results here as JSON")->type_name("FILE");
  return {command, [options] { return options->host_cost ? host_cost(*options) : bench_on_gpu(*options); }};
}

}  // namespace machete::tools
