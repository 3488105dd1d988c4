// Fits the cost model's constants (src/planner/machine.h) to what `machete tune` measured.
//
//     fit_costs [--seconds N] [--vary NAME,...] [--hold-out FILE,...] FILE.measurements...
//
// Prints the constants, and what the model's choice costs at the points of the files, those held out apart: they take
// no part in the fit. Points of dependent launch do not either, nor do shapes whose activations are realigned first.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <exception>
#include <random>
#include <string>
#include <vector>

#include "tuning/recording.h"

namespace machete::tuning {
namespace {

struct Constant {
  const char* name;
  double* value;
};

std::vector<Constant> constants_of(planner::Machine& machine) {
  planner::Machine::Gemm& g = machine.gemm;
  planner::Machine::Batch& b = machine.batch;
  return {{"gemm.mma_part", &g.mma_part},
          {"gemm.unpack_clocks", &g.unpack_clocks},
          {"gemm.unpack_e2m1_clocks", &g.unpack_e2m1_clocks},
          {"gemm.unpack8_clocks", &g.unpack8_clocks},
          {"gemm.stage_clocks", &g.stage_clocks},
          {"gemm.look_up_clocks", &g.look_up_clocks},
          {"gemm.mask_clocks", &g.mask_clocks},
          {"gemm.fetch_clocks", &g.fetch_clocks},
          {"gemm.scale_clocks", &g.scale_clocks},
          {"gemm.store_clocks", &g.store_clocks},
          {"gemm.drain_clocks", &g.drain_clocks},
          {"gemm.l2_tb_s", &g.l2_tb_s},
          {"gemm.scattered_l2_tb_s", &g.scattered_l2_tb_s},
          {"gemm.scattered_part", &g.scattered_part},
          {"gemm.scattered_reads", &g.scattered_reads},
          {"gemm.empty_tb_s", &g.empty_tb_s},
          {"gemm.mma_power", &g.mma_power},
          {"gemm.unpack_power", &g.unpack_power},
          {"gemm.exchange_us", &g.exchange_us},
          {"gemm.exchange_rows", &g.exchange_rows},
          {"gemm.given_bytes_us", &g.given_bytes_us},
          {"gemm.given_part", &g.given_part},
          {"gemm.giver_us", &g.giver_us},
          {"gemm.early_us", &g.early_us},
          {"gemm.early_part", &g.early_part},
          {"gemm.launch_us", &g.launch_us},
          {"gemm.path_norm", &g.path_norm},
          {"gemm.power_norm", &g.power_norm},
          {"batch.rate", &b.rate},
          {"batch.rate8", &b.rate8},
          {"batch.octet", &b.octet},
          {"batch.slot", &b.slot},
          {"batch.half_slot", &b.half_slot},
          {"batch.slot8", &b.slot8},
          {"batch.many_part", &b.many_part},
          {"batch.bytes_us", &b.bytes_us},
          {"batch.activation_part", &b.activation_part},
          {"batch.many_activation_part", &b.many_activation_part},
          {"batch.launch_us", &b.launch_us},
          {"batch.many_us", &b.many_us},
          {"batch.pass_us", &b.pass_us},
          {"batch.sum_us", &b.sum_us},
          {"batch.round_us", &b.round_us},
          {"batch.norm", &b.norm}};
}

// What a fit makes small: what the choice costs, as if made at random among estimates that are close; large losses
// count more. And, so that estimates stay near the truth, the error of those of fast schedules.
double loss_of(const Recorded& recorded, const planner::Machine& machine) {
  constexpr double kClose = 0.03;
  constexpr double kFast = 1.12;  // what is slower than the best by more was timed in a short round only
  constexpr double kErrorWeight = 0.2;
  const std::vector<double> estimates = estimates_of(recorded, machine);
  const double least = *std::min_element(estimates.begin(), estimates.end());
  double best = recorded.trials.front().us;
  for (const Trial& trial : recorded.trials) best = std::min(best, trial.us);
  double chances = 0;
  double cost = 0;
  double errors = 0;
  double weights = 0;
  for (std::size_t i = 0; i < estimates.size(); ++i) {
    const double us = recorded.trials[i].us;
    const double slower = us / best - 1;
    const double chance = std::exp(-(estimates[i] / least - 1) / kClose);
    chances += chance;
    cost += chance * (slower + 8 * slower * slower);
    const double weight = us < kFast * best ? 1 : 0.3 * std::exp(-3 * slower);
    const double error = std::log(estimates[i] / us);
    errors += weight * error * error;
    weights += weight;
  }
  return cost / chances + kErrorWeight * errors / weights;
}

double loss_of(const std::vector<Recorded>& points, const planner::Machine& machine) {
  double sum = 0;
  for (const Recorded& point : points) sum += loss_of(point, machine);
  return sum / static_cast<double>(points.size());
}

// Steps at random in one to three constants at a time; those of a constant adapt to how often they help.
void fit(const std::vector<Recorded>& points, planner::Machine& machine, const std::vector<std::string>& vary,
         double seconds) {
  planner::Machine tried = machine;
  std::vector<Constant> constants;
  for (const Constant& constant : constants_of(tried)) {
    if (vary.empty() || std::find(vary.begin(), vary.end(), constant.name) != vary.end()) constants.push_back(constant);
  }
  std::vector<double> steps(constants.size(), 0.05);
  std::mt19937 random(1);
  std::normal_distribution<double> normal;
  double loss = loss_of(points, machine);
  const auto end = std::chrono::steady_clock::now() + std::chrono::duration<double>(seconds);
  while (std::chrono::steady_clock::now() < end) {
    tried = machine;
    const std::size_t count = 1 + random() % 3;
    std::size_t last = 0;
    for (std::size_t i = 0; i < count; ++i) {
      last = random() % constants.size();
      *constants[last].value *= std::exp(normal(random) * steps[last]);
    }
    const double tried_loss = loss_of(points, tried);
    if (tried_loss < loss) {
      loss = tried_loss;
      machine = tried;
    }
    if (count == 1) steps[last] = std::clamp(steps[last] * (tried_loss <= loss ? 1.3 : 0.93), 0.003, 0.4);
  }
}

void report(const char* what, const std::vector<Recorded>& points, const planner::Machine& machine) {
  constexpr std::int64_t kBounds[] = {0, 8, 64, 512, INT64_MAX};
  for (std::size_t i = 0; i + 1 < std::size(kBounds); ++i) {
    double log_sum = 0;
    int count = 0;
    int beyond = 0;
    double worst = 0;
    std::string worst_what;
    for (const Recorded& point : points) {
      const Problem& p = point.problem;
      if (p.m <= kBounds[i] || p.m > kBounds[i + 1]) continue;
      const Verdict verdict = judge(point, machine);
      ++count;
      log_sum += std::log(verdict.ratio());
      if (verdict.ratio() > 1.1) ++beyond;
      if (verdict.ratio() <= worst) continue;
      worst = verdict.ratio();
      worst_what =
          fmt::format("{}x{}, M={}, {} for {}", p.n, p.k, p.m, verdict.chosen->schedule, verdict.best->schedule);
    }
    if (count == 0) continue;
    fmt::print("{}, M > {}: {:.3f} times the best (geometric mean of {}), {} beyond 1.1, at worst {:.3f} ({})\n", what,
               kBounds[i], std::exp(log_sum / count), count, beyond, worst, worst_what);
  }
}

std::vector<Recorded> read(const std::vector<std::string>& paths) {
  std::vector<Recorded> points;
  for (const std::string& path : paths) {
    Result<std::vector<Recorded>> recording = read_recording(path);
    if (!recording.ok()) throw CLI::ValidationError(recording.status().message());
    for (Recorded& point : *recording) {
      if (!point.overlap && point.problem.k % 16 == 0) points.push_back(std::move(point));
    }
  }
  return points;
}

int run(int argc, char** argv) {
  CLI::App app("Fits the cost model's constants to what machete tune measured");
  double seconds = 0;
  std::vector<std::string> vary;
  std::vector<std::string> held_out;
  std::vector<std::string> files;
  app.add_option("--seconds", seconds, "how long; default 0, which only reports");
  app.add_option("--vary", vary, "constants, such as gemm.stage_clocks; default all")
      ->delimiter(',')
      ->allow_extra_args(false);
  app.add_option("--hold-out", held_out, "measurements that take no part")->delimiter(',')->allow_extra_args(false);
  app.add_option("files", files, "measurements")->required();
  try {
    app.parse(argc, argv);
    const std::vector<Recorded> points = read(files);
    const std::vector<Recorded> others = read(held_out);
    planner::Machine machine;
    fit(points, machine, vary, seconds);
    for (const Constant& constant : constants_of(machine)) fmt::print("{} = {:.4g}\n", constant.name, *constant.value);
    report("fitted", points, machine);
    report("held out", others, machine);
  } catch (const CLI::ParseError& error) {
    return app.exit(error);
  }
  return 0;
}

}  // namespace
}  // namespace machete::tuning

int main(int argc, char** argv) {
  try {
    return machete::tuning::run(argc, argv);
  } catch (const std::exception& error) {
    static_cast<void>(std::fprintf(stderr, "fit_costs: %s\n", error.what()));
    return 1;
  }
}
