#include "tuning/recording.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <nlohmann/json.hpp>
#include <stdexcept>

#include "planner/cost.h"
#include "planner/schedule.h"
#include "tuning/result_file.h"

namespace machete::tuning {
namespace {

using Json = nlohmann::json;

constexpr const char* kStreamK = "_streamk";

// "gemm_128x64x128_streamk", "batch_32x8x128w16", "decode_32x1x256".
Trial trial_of(const std::string& schedule, double us) {
  Trial trial;
  trial.schedule = schedule;
  trial.us = us;
  const std::size_t suffix = schedule.find(kStreamK);
  trial.stream_k = suffix != std::string::npos;
  const std::string kernel = schedule.substr(0, suffix);
  const std::size_t line = kernel.find('_');
  const std::string family = kernel.substr(0, line);
  kernels::Tile& tile = trial.kernel.tile;
  const char* sizes = line == std::string::npos ? "" : kernel.c_str() + line + 1;
  const bool known = family == "gemm" || family == "batch" || family == "decode";
  if (!known || std::sscanf(sizes, "%dx%dx%d", &tile.n, &tile.m, &tile.k) != 3) {
    throw std::invalid_argument(fmt::format("'{}' names no schedule", schedule));
  }
  trial.kernel.family = family == "gemm"    ? kernels::Family::kGemm
                        : family == "batch" ? kernels::Family::kBatch
                                            : kernels::Family::kDecode;
  trial.kernel.order = kernel.find('w') == std::string::npos ? 8 : 16;
  return trial;
}

}  // namespace

Result<std::vector<Recorded>> read_recording(const std::string& path) {
  std::ifstream file(path);
  if (!file) return io_error("read", path);
  std::vector<Recorded> recording;
  Problem problem;
  std::string text;
  int number = 0;
  try {
    while (std::getline(file, text)) {
      const Json line = Json::parse(text);
      if (++number == 1) {
        const Result<WeightType> w_type = parse_weight_type(line.at("type").get<std::string>());
        const Result<DataType> a_type = parse_data_type(line.at("a").get<std::string>());
        if (!w_type.ok()) throw std::invalid_argument(w_type.status().message());
        if (!a_type.ok()) throw std::invalid_argument(a_type.status().message());
        problem.w_type = *w_type;
        problem.a_type = *a_type;
        if (bits_of(*a_type) == 16) problem.d_type = *a_type;
        problem.group_size = line.at("group-size");
        continue;
      }
      Recorded recorded;
      recorded.problem = problem;
      recorded.problem.n = line.at("n");
      recorded.problem.k = line.at("k");
      recorded.problem.m = line.at("m");
      recorded.overlap = line.at("overlap");
      for (const auto& [schedule, us] : line.at("us").items()) recorded.trials.push_back(trial_of(schedule, us));
      if (!recorded.trials.empty()) recording.push_back(std::move(recorded));
    }
  } catch (const std::exception& error) {
    return Status(StatusCode::kCorrupt,
                  fmt::format("{}: line {} is not what `machete tune` writes: {}", path, number, error.what()));
  }
  return recording;
}

std::vector<double> estimates_of(const Recorded& recorded, const planner::Machine& machine) {
  std::vector<double> estimates;
  for (const Trial& trial : recorded.trials) {
    const planner::Schedule schedule{&trial.kernel, trial.stream_k};
    estimates.push_back(planner::estimate(recorded.problem, schedule, machine).total_us());
  }
  return estimates;
}

Verdict judge(const Recorded& recorded, const planner::Machine& machine) {
  const std::vector<double> estimates = estimates_of(recorded, machine);
  const auto chosen = std::min_element(estimates.begin(), estimates.end()) - estimates.begin();
  const auto best = std::min_element(recorded.trials.begin(), recorded.trials.end(),
                                     [](const Trial& a, const Trial& b) { return a.us < b.us; });
  return {&recorded.trials[static_cast<std::size_t>(chosen)], &*best};
}

}  // namespace machete::tuning
