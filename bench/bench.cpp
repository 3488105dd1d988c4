#include "bench/bench.h"

#include <cuda_runtime_api.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cstddef>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>

#include "api/validate.h"
#include "bench/cublas_baseline.h"
#include "bench/machine.h"
#include "bench/neighbours.h"
#include "bench/read_stream.h"
#include "bench/report.h"
#include "bench/rotation.h"
#include "bench/runner.h"
#include "bench/stage.h"
#include "bench/suite.h"
#include "bench/timeline.h"
#include "bench/timer.h"
#include "machete/machete.h"
#include "testing/cuda_status.h"
#include "testing/device_check.h"
#include "tuning/result_file.h"

namespace machete::bench {
namespace {

using testing::cuda_status;

constexpr std::int64_t kMaxM = std::int64_t{1} << 20;
constexpr std::int64_t kCheckedRows = 64;  // of D, spread evenly, where M is larger
constexpr std::int64_t kChainsInGraph = 20;

Status check_options(const BenchOptions& options) {
  for (const std::int64_t m : options.ms) {
    if (m < 1 || m > kMaxM) {
      return {StatusCode::kInvalidArgument, fmt::format("M={} cannot be timed; take 1 to {}", m, kMaxM)};
    }
  }
  for (const DataType type : options.a_types) {
    if (Status status = validate::activation_type(type, options.w_type); !status.ok()) return status;
    if (options.neighbours && bits_of(type) != 16) {
      return {StatusCode::kInvalidArgument,
              fmt::format("neighbours compute in 16 bits, not in {}; take bf16 or f16", name_of(type))};
    }
  }
  if (options.timeline && !options.json_path.empty()) {
    return {StatusCode::kInvalidArgument, "a timeline is printed, not written; leave the JSON path out"};
  }
  if (options.group_sizes.empty()) return {StatusCode::kInvalidArgument, "no group size is given; take 128"};
  if (options.all_schedules && !options.schedules.empty()) {
    return {StatusCode::kInvalidArgument, "either one schedule is forced or all are timed; choose one"};
  }
  return {};
}

// The suite without the linears that are not named; a part of them is no chain.
Suite only(const std::vector<std::string>& names, Suite suite) {
  if (names.empty()) return suite;
  const auto unnamed = [&](const Shape& shape) {
    return std::find(names.begin(), names.end(), shape.name) == names.end();
  };
  suite.shapes.erase(std::remove_if(suite.shapes.begin(), suite.shapes.end(), unnamed), suite.shapes.end());
  suite.chain = false;
  return suite;
}

std::string names_of(const Suite& suite) {
  std::vector<std::string> names;
  for (const Shape& shape : suite.shapes) names.push_back(shape.name);
  return fmt::format("{}", fmt::join(names, ", "));
}

// One run of the benchmark: what it was asked for, what it holds on the device, what it has found.
class Session {
 public:
  explicit Session(BenchOptions options) : options_(std::move(options)) {}

  Status run();

 private:
  Status set_up();
  Status allocate();
  Status settle();
  Result<Stage> set_stage(const Suite& suite, DataType a_type, std::int64_t group_size);
  Status time_suite(const Suite& suite, DataType a_type, std::int64_t group_size);
  Status time_linear(const Suite& suite, const RotatedWeight& weight, const Stage& stage, const Problem& problem);
  Status time_chain(const Suite& suite, const Stage& stage, std::int64_t m, DataType a_type, std::int64_t group_size);

  Status time_among_others(const Suite& suite, const Stage& stage, std::int64_t m, DataType a_type,
                           std::int64_t group_size);
  Status show_timeline(const Suite& suite, const Stage& stage, const std::vector<Plan>& plans);

  Result<std::vector<Plan>> plans_for(const RotatedWeight& weight, const Problem& problem);
  Result<std::vector<Plan>> plain_plans(const std::vector<Plan>& plans);
  Status check(const Plan& plan, const RotatedWeight& weight, const Stage& stage, Row& row);
  Status launch_cublas(const Problem& problem, const RotatedWeight& weight, const Stage& stage,
                       std::int64_t weight_copy, std::int64_t slot);
  bool found_wrong(const std::string& suite, const std::string& name, const Plan& plan) const;

  bool times_linears() const { return !options_.timeline && !options_.neighbours; }
  ChainProblem chain_problem(const Suite& suite, std::int64_t m, DataType a_type, std::int64_t group_size) const {
    return {suite.name, m, a_type, options_.w_type, group_size};
  }
  RotatedWeight::Options weight_options(DataType a_type, std::int64_t group_size) const {
    RotatedWeight::Options weight;
    weight.a_type = a_type;
    weight.w_type = options_.w_type;
    weight.group_size = group_size;
    weight.swiglu = options_.epilogue.activation == Activation::kSwiglu;
    weight.act_order = options_.act_order;
    weight.dense = options_.cublas;
    weight.l2_bytes = runner_.facts().l2_bytes;
    weight.device = runner_.device();
    return weight;
  }
  Problem problem_for(const RotatedWeight& weight, std::int64_t m, DataType a_type, std::int64_t group_size) const {
    Problem problem = problem_of(weight, m, a_type, group_size, options_.epilogue);
    problem.fast_accumulation = options_.fast_accumulation;
    problem.act_order = options_.act_order;
    return problem;
  }
  // "" where the planner chooses.
  std::string forced_for(const RotatedWeight& weight) const {
    for (const std::string& name : {weight.shape().name, std::string()}) {
      const auto found = options_.schedules.find(name);
      if (found != options_.schedules.end()) return found->second;
    }
    return {};
  }
  PlanOptions plan_options(const std::string& schedule) const {
    PlanOptions result;
    result.device = runner_.device();
    result.schedule = schedule;
    result.overlap = options_.overlap;
    result.batch_invariant = options_.batch_invariant;
    return result;
  }
  double read_floor_us(std::int64_t bytes) const { return static_cast<double>(bytes) / report_.read_tb_s / 1e6; }
  void step(const std::string& what) { printer_.progress(++steps_done_, steps_, what); }

  BenchOptions options_;
  std::vector<Suite> suites_;
  std::int64_t max_m_ = 0;
  Runner runner_;
  testing::DeviceCheck checker_;
  std::optional<CublasBaseline> cublas_;
  std::size_t cublas_bytes_ = 0;  // of its workspace, at the front of the memory
  Report report_;
  Printer printer_;
  std::int64_t steps_ = 0;
  std::int64_t steps_done_ = 0;
  Status not_served_;  // the last refusal of a forced schedule
};

Status Session::run() {
  if (Status status = check_options(options_); !status.ok()) return status;
  if (options_.suites.empty()) options_.suites = {"llama8b"};
  if (options_.a_types.empty()) options_.a_types = {DataType::kBf16, DataType::kF16};
  if (options_.ms.empty()) {
    for (std::int64_t m = 1; m <= 8192; m *= 2) options_.ms.push_back(m);
  }
  for (const std::string& name : options_.suites) {
    const Result<Suite> suite = find_suite(name);
    if (!suite.ok()) return suite.status();
    suites_.push_back(only(options_.linears, *suite));
    if (suites_.back().shapes.empty()) {
      return {StatusCode::kInvalidArgument, fmt::format("suite {} has no linear '{}'; it has {}", name,
                                                        fmt::join(options_.linears, ", "), names_of(*suite))};
    }
    const Suite& kept = suites_.back();
    const std::size_t linears = times_linears() ? kept.shapes.size() * options_.group_sizes.size() : 0;
    const std::size_t chains = kept.chain ? 1 : 0;
    steps_ += static_cast<std::int64_t>(options_.a_types.size() * options_.ms.size() * (linears + chains));
  }
  for (const auto& [linear, schedule] : options_.schedules) {
    const auto has = [&, &name = linear](const Suite& suite) { return only({name}, suite).shapes.size() == 1; };
    if (!linear.empty() && std::none_of(suites_.begin(), suites_.end(), has)) {
      return {StatusCode::kInvalidArgument,
              fmt::format("{}={}: no suite has a linear '{}'; {} has {}", linear, schedule, linear,
                          suites_.front().name, names_of(suites_.front()))};
    }
  }
  tuning::ResultFile file;
  if (!options_.json_path.empty()) {
    if (Status status = file.open(options_.json_path); !status.ok()) return status;
  }
  if (Status status = set_up(); !status.ok()) return status;

  for (const Suite& suite : suites_) {
    for (const DataType a_type : options_.a_types) {
      for (const std::int64_t group_size : options_.group_sizes) {
        const Status status = time_suite(suite, a_type, group_size);
        if (!status.ok()) {
          return in_context(status, fmt::format("{}, {}, group size {}", suite.name, name_of(a_type), group_size));
        }
      }
    }
  }
  if (options_.timeline) return {};
  if (report_.rows.empty() && report_.neighbours.empty()) return in_context(not_served_, "nothing was timed");
  if (!options_.json_path.empty()) {
    const std::string text = to_json(report_).dump(1, ' ', false, nlohmann::json::error_handler_t::replace);
    if (Status status = file.commit(text + "\n"); !status.ok()) return status;
    printer_.note("results are in " + options_.json_path);
  }
  const auto wrong =
      std::count_if(report_.rows.begin(), report_.rows.end(), [](const Row& row) { return !row.fault.empty(); });
  if (wrong > 0) {
    return {StatusCode::kDevice, fmt::format("{} of {} rows have results beyond their bounds; look for WRONG above",
                                             wrong, report_.rows.size())};
  }
  return {};
}

Status Session::set_up() {
  if (Status status = runner_.set_up(options_.device); !status.ok()) return status;
  report_.machine = runner_.facts().machine;
  report_.commit = options_.commit;
  report_.date = today();
  report_.overlap = options_.overlap;
  report_.fast_accumulation = options_.fast_accumulation;
  report_.act_order = options_.act_order;
  report_.epilogue = options_.epilogue;

  max_m_ = *std::max_element(options_.ms.begin(), options_.ms.end());
  cublas_bytes_ = options_.cublas ? CublasBaseline::kWorkspaceBytes : 0;
  if (Status status = allocate(); !status.ok()) return status;
  if (Status status = settle(); !status.ok()) return status;
  if (options_.cublas) {
    Result<CublasBaseline> cublas = CublasBaseline::create(runner_.memory().data(), runner_.stream());
    if (!cublas.ok()) return cublas.status();
    cublas_ = *cublas;
  }
  printer_.machine(report_);
  return {};
}

Status Session::settle() {
  const Result<double> read = runner_.settle();
  if (!read.ok()) return read.status();
  report_.read_tb_s = std::max(report_.read_tb_s, *read);
  return {};
}

Status Session::allocate() {
  std::size_t bytes = 0;
  for (const Suite& suite : suites_) {
    for (const std::int64_t group_size : options_.group_sizes) {
      for (const DataType a_type : options_.a_types) {
        const Result<std::size_t> size =
            Runner::size_of(suite, weight_options(a_type, group_size), max_m_, options_.epilogue);
        if (!size.ok()) return in_context(size.status(), suite.name);
        bytes = std::max(bytes, cublas_bytes_ + *size);
      }
    }
  }
  return runner_.allocate(bytes);
}

Result<Stage> Session::set_stage(const Suite& suite, DataType a_type, std::int64_t group_size) {
  if (Status status = settle(); !status.ok()) return status;  // in the memory that the stage is about to fill
  return runner_.set_stage(suite, weight_options(a_type, group_size), max_m_, options_.epilogue, cublas_bytes_);
}

Status Session::time_suite(const Suite& suite, DataType a_type, std::int64_t group_size) {
  if (times_linears()) {
    const Result<Stage> stage = set_stage(suite, a_type, group_size);
    if (!stage.ok()) return stage.status();
    for (const std::int64_t m : options_.ms) {  // so that neighbours in time draw about as much power
      for (const RotatedWeight& weight : stage->weights) {
        const std::string what = fmt::format("{} {} M={}", suite.name, weight.shape().name, m);
        step(fmt::format("{} {} g{}", what, name_of(a_type), group_size));
        const Status status = time_linear(suite, weight, *stage, problem_for(weight, m, a_type, group_size));
        if (!status.ok()) return in_context(status, what);
      }
    }
  }
  // A chain's record does not name its group size: it is the first one's.
  if (!suite.chain || group_size != options_.group_sizes.front()) return {};
  const Result<Stage> stage = set_stage(suite, a_type, group_size);
  if (!stage.ok()) return stage.status();
  for (const std::int64_t m : options_.ms) {
    const std::string what = fmt::format("{} chain M={}", suite.name, m);
    step(fmt::format("{} {} g{}", what, name_of(a_type), group_size));
    const Status status = options_.neighbours ? time_among_others(suite, *stage, m, a_type, group_size)
                                              : time_chain(suite, *stage, m, a_type, group_size);
    if (!status.ok()) return in_context(status, what);
  }
  return {};
}

// The planner's choice, the forced schedule, or all; none where the forced schedule does not serve the problem.
Result<std::vector<Plan>> Session::plans_for(const RotatedWeight& weight, const Problem& problem) {
  const std::string forced = forced_for(weight);
  std::vector<std::string> names = {forced};
  if (options_.all_schedules) {
    const Result<std::vector<ScheduleChoice>> choices = list_schedules(problem, plan_options({}));
    if (!choices.ok()) return choices.status();
    names.clear();
    for (const ScheduleChoice& choice : *choices) {
      if (options_.top == 0 || names.size() < static_cast<std::size_t>(options_.top)) names.push_back(choice.name);
    }
  }
  std::vector<Plan> plans;
  for (const std::string& name : names) {
    Result<Plan> plan = machete::plan(problem, plan_options(name));
    if (plan.ok()) {
      plans.push_back(std::move(*plan));
    } else if (forced.empty()) {
      return plan.status();
    } else {
      not_served_ = plan.status();
      printer_.note("left out: " + plan.status().message());
    }
  }
  return plans;
}

// The same schedules without the epilogue; none where there is no epilogue.
Result<std::vector<Plan>> Session::plain_plans(const std::vector<Plan>& plans) {
  std::vector<Plan> result;
  if (options_.epilogue.plain()) return result;
  for (const Plan& with : plans) {
    Problem problem = with.problem();
    problem.epilogue = {};
    problem.d_type = problem.scale_type();
    problem.ldd = problem.ldc = 0;
    Result<Plan> plan = machete::plan(problem, plan_options(with.schedule()));
    if (!plan.ok()) return plan.status();
    result.push_back(std::move(*plan));
  }
  return result;
}

Status Session::launch_cublas(const Problem& problem, const RotatedWeight& weight, const Stage& stage,
                              std::int64_t weight_copy, std::int64_t slot) {
  return cublas_->run(problem.a_type, problem.m, problem.n, problem.k, stage.activations[slot],
                      weight.dense(weight_copy), stage.outputs[slot]);
}

// One run into a poisoned output, against fp64.
Status Session::check(const Plan& plan, const RotatedWeight& weight, const Stage& stage, Row& row) {
  const Problem& problem = plan.problem();
  const std::size_t bytes = static_cast<std::size_t>(problem.m * problem.n) * bytes_of(problem.d_type);
  Status status = cuda_status(cudaMemsetAsync(stage.outputs[0], 0xFF, bytes, runner_.stream()), "poison the output");
  if (status.ok()) status = runner_.launch(plan, weight, stage, 0, 0);
  if (!status.ok()) return status;
  const testing::DeviceErrorReport found = checker_.within_bounds(problem, stage.activations[0], weight.canonical(),
                                                                  stage.outputs[0], {kCheckedRows, runner_.stream()});
  if (!found.status.ok()) return found.status;
  row.rel_error = found.rel_frobenius;
  if (!found.passed) {
    row.fault =
        fmt::format("the error at [{}, {}] is {:.3g} of its bound", found.worst_m, found.worst_n, found.max_ratio);
  }
  return {};
}

Status Session::time_linear(const Suite& suite, const RotatedWeight& weight, const Stage& stage,
                            const Problem& problem) {
  const Result<std::vector<Plan>> plans = plans_for(weight, problem);
  if (!plans.ok()) return plans.status();
  if (plans->empty()) return {};
  const Result<std::vector<Plan>> plain = plain_plans(*plans);
  if (!plain.ok()) return plain.status();
  for (const auto* some : {&plans, &plain}) {
    if (Status status = runner_.reserve_workspace(**some); !status.ok()) return status;
  }

  std::vector<Row> rows;
  std::vector<Contender> contenders;
  for (const Plan& plan : *plans) {
    Row row;
    row.suite = suite.name;
    row.name = weight.shape().name;
    row.m = problem.m;
    row.n = problem.n;
    row.k = problem.k;
    row.a_type = problem.a_type;
    row.w_type = problem.w_type;
    row.group_size = problem.group_size;
    row.schedule = plan.schedule();
    if (options_.check && options_.epilogue.plain()) {
      if (Status status = check(plan, weight, stage, row); !status.ok()) return in_context(status, plan.schedule());
    }
    rows.push_back(std::move(row));
    contenders.push_back(runner_.contender(plan, weight, stage));
  }
  for (const Plan& plan : *plain) contenders.push_back(runner_.contender(plan, weight, stage));
  if (cublas_) {
    contenders.push_back({[&](std::int64_t i, cudaStream_t) { return launch_cublas(problem, weight, stage, i, i); }});
  }
  const Result<std::vector<double>> times = time_in_turn(contenders, runner_.stream());
  if (!times.ok()) return times.status();

  const std::int64_t bytes = weight.bytes(problem.m);
  const double flops =
      2.0 * static_cast<double>(problem.m) * static_cast<double>(problem.n) * static_cast<double>(problem.k);
  for (std::size_t i = 0; i < rows.size(); ++i) {
    Row& row = rows[i];
    row.us = (*times)[i];
    if (cublas_) row.cublas_us = times->back();
    if (!plain->empty()) row.plain_us = (*times)[rows.size() + i];
    row.read_floor_us = read_floor_us(bytes);
    row.tflops = flops / row.us / 1e6;
    row.gb_s = static_cast<double>(bytes) / row.us / 1e3;
    printer_.row(row);
    report_.rows.push_back(std::move(row));
  }
  return {};
}

bool Session::found_wrong(const std::string& suite, const std::string& name, const Plan& plan) const {
  const Problem& problem = plan.problem();
  return std::any_of(report_.rows.begin(), report_.rows.end(), [&](const Row& row) {
    return !row.fault.empty() && row.suite == suite && row.name == name && row.m == problem.m &&
           row.a_type == problem.a_type && row.group_size == problem.group_size && row.schedule == plan.schedule();
  });
}

// The linears in turn, as a decoder layer runs them; one's output need not be the next one's input.
Status Session::time_chain(const Suite& suite, const Stage& stage, std::int64_t m, DataType a_type,
                           std::int64_t group_size) {
  Chain chain;
  chain.problem = chain_problem(suite, m, a_type, group_size);
  std::vector<Plan> plans;
  std::int64_t bytes = 0;
  for (const RotatedWeight& weight : stage.weights) {
    const Problem problem = problem_for(weight, m, a_type, group_size);
    const std::string forced = forced_for(weight);
    Result<Plan> plan = machete::plan(problem, plan_options(forced));
    if (!plan.ok() && !forced.empty()) return {};  // said when the linear was left out
    if (!plan.ok()) return plan.status();
    bytes += weight.bytes(m);
    chain.wrong = chain.wrong || found_wrong(suite.name, weight.shape().name, *plan);
    plans.push_back(std::move(*plan));
  }
  if (Status status = runner_.reserve_workspace(plans); !status.ok()) return status;
  if (options_.timeline) return show_timeline(suite, stage, plans);

  // Chain i reads copy i of every weight; the slots alternate from linear to linear.
  std::vector<Contender> contenders;
  contenders.push_back({[&](std::int64_t i, cudaStream_t) {
                          Status status;
                          for (std::size_t j = 0; j < plans.size() && status.ok(); ++j) {
                            status = runner_.launch(plans[j], stage.weights[j], stage, i, static_cast<std::int64_t>(j));
                          }
                          return status;
                        },
                        kChainsInGraph});
  if (cublas_) {
    contenders.push_back({[&](std::int64_t i, cudaStream_t) {
                            Status status;
                            for (std::size_t j = 0; j < plans.size() && status.ok(); ++j) {
                              status = launch_cublas(plans[j].problem(), stage.weights[j], stage, i,
                                                     static_cast<std::int64_t>(j));
                            }
                            return status;
                          },
                          kChainsInGraph});
  }
  const Result<std::vector<double>> times = time_in_turn(contenders, runner_.stream());
  if (!times.ok()) return times.status();
  chain.us = times->front();
  if (cublas_) chain.cublas_us = times->back();
  chain.read_floor_us = read_floor_us(bytes);
  printer_.chain(chain);
  report_.chains.push_back(std::move(chain));
  return {};
}

// A norm ahead of the first linear and of the third, an attention ahead of the second, nothing ahead of the fourth.
Status Session::time_among_others(const Suite& suite, const Stage& stage, std::int64_t m, DataType a_type,
                                  std::int64_t group_size) {
  constexpr std::int64_t kKeysAndValues = std::int64_t{1024} * 8 * 128 * 2 * 2;  // bytes a sequence of 1024 tokens
  std::vector<Plan> plans[2];                                                    // plain, overlapped
  for (const RotatedWeight& weight : stage.weights) {
    for (const bool overlap : {false, true}) {
      PlanOptions options = plan_options({});
      options.overlap = overlap;
      Result<Plan> plan = machete::plan(problem_for(weight, m, a_type, group_size), options);
      if (!plan.ok()) return plan.status();
      plans[overlap ? 1 : 0].push_back(std::move(*plan));
    }
  }
  for (const auto& some : plans) {
    if (Status status = runner_.reserve_workspace(some); !status.ok()) return status;
  }
  const auto other = [&](std::int64_t i, std::size_t linear) {
    const void* in = stage.activations[static_cast<std::int64_t>(linear) + 1];
    void* out = stage.activations[static_cast<std::int64_t>(linear)];
    const std::int64_t k = stage.weights[linear].shape().k;
    if (linear % 4 == 3) return Status();
    if (linear % 4 != 1) return launch_norm(a_type, in, out, m, k, runner_.stream());
    const std::int64_t all = static_cast<std::int64_t>(kReadStreamBytes);
    const std::int64_t bytes = std::min(m * kKeysAndValues, all / 4);
    return launch_attention(runner_.memory().as<char>() + i % (all / bytes) * bytes, bytes, in, out, m, k,
                            runner_.stream());
  };
  const auto contender = [&](const std::vector<Plan>* linears) {
    return Contender{[&, linears](std::int64_t i, cudaStream_t) {
                       Status status;
                       for (std::size_t j = 0; j < stage.weights.size() && status.ok(); ++j) {
                         status = other(i, j);
                         if (!status.ok() || linears == nullptr) continue;
                         status =
                             runner_.launch((*linears)[j], stage.weights[j], stage, i, static_cast<std::int64_t>(j));
                       }
                       return status;
                     },
                     kChainsInGraph};
  };
  const Result<std::vector<double>> times =
      time_in_turn({contender(nullptr), contender(&plans[0]), contender(&plans[1])}, runner_.stream());
  if (!times.ok()) return times.status();
  Neighbours found;
  found.problem = chain_problem(suite, m, a_type, group_size);
  found.others_us = (*times)[0];
  found.plain_us = (*times)[1];
  found.overlap_us = (*times)[2];
  printer_.neighbours(found);
  report_.neighbours.push_back(found);
  return {};
}

// The last of a few chains, when each kernel has met the ones that go before it.
Status Session::show_timeline(const Suite& suite, const Stage& stage, const std::vector<Plan>& plans) {
  constexpr std::size_t kChains = 5;
  std::vector<TimelineEntry> chain;
  for (std::size_t i = 0; i < kChains * plans.size(); ++i) {
    const std::size_t linear = i % plans.size();
    const auto copy = static_cast<std::int64_t>(i / plans.size());
    chain.push_back({stage.weights[linear].shape().name + " " + plans[linear].schedule(),
                     [&plans, &stage, this, linear, copy](void* moments, cudaStream_t) {
                       return runner_.launch(plans[linear], stage.weights[linear], stage, copy,
                                             static_cast<std::int64_t>(linear), moments);
                     }});
  }
  printer_.note(fmt::format("{} chain, M={}, {}{}", suite.name, plans.front().problem().m,
                            name_of(plans.front().problem().a_type), options_.overlap ? ", dependent launch" : ""));
  return print_timeline(chain, (kChains - 1) * plans.size(), runner_.stream());
}

}  // namespace

Status run_bench(const BenchOptions& options) { return Session(options).run(); }

}  // namespace machete::bench
