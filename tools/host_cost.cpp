#include "host_cost.h"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "api/memory.h"
#include "build_info.h"
#include "machete/linear.h"
#include "machete/version.h"
#include "options.h"
#include "table.h"

namespace machete::tools {
namespace {

constexpr std::int64_t kSize = 16;
constexpr int kBatch = 100;  // calls between two looks at the clock; fewer than a GPU's queue holds
constexpr int kBatches = 500;

struct Cost {
  std::string call;
  double fastest_us = 0;
  double median_us = 0;
};

/// Microseconds a call, of batches; `settle` waits for what they have queued.
template <class Call, class Settle>
Result<Cost> time_calls(const std::string& name, Call call, Settle settle) {
  using Clock = std::chrono::steady_clock;
  std::vector<double> samples;
  for (int batch = 0; batch < kBatches; ++batch) {
    const Clock::time_point start = Clock::now();
    for (int i = 0; i < kBatch; ++i) {
      if (Status status = call(); !status.ok()) return status;
    }
    samples.push_back(std::chrono::duration<double, std::micro>(Clock::now() - start).count() / kBatch);
    if (Status status = settle(); !status.ok()) return status;
  }
  std::sort(samples.begin(), samples.end());
  return Cost{name, samples.front(), samples[samples.size() / 2]};
}

Result<std::vector<Cost>> measure(Device device) {
  const std::vector<std::uint8_t> codes(kSize * kSize / 2, 0x99);  // [N, K/2]
  const std::vector<std::uint16_t> scales(kSize, 0x3f00);          // [1, N], bf16
  QuantizedWeight weight;
  weight.n = weight.k = weight.group_size = kSize;
  weight.qweight = codes.data();
  weight.scales = scales.data();
  PrepackOptions prepack_options;
  prepack_options.device = device;
  const Result<PackedWeight> packed = prepack(weight, prepack_options);
  if (!packed.ok()) return packed.status();

  const std::vector<std::uint16_t> ones(kSize * kSize, 0x3f80);  // [M, K], bf16
  const auto a = memory::allocate(device, ones.size() * 2);
  const auto d = memory::allocate(device, ones.size() * 2);
  for (const auto* allocation : {&a, &d}) {
    if (!allocation->ok()) return allocation->status();
  }
  if (Status s = memory::copy(a->get(), device, ones.data(), Device::cpu(), ones.size() * 2); !s.ok()) return s;

  std::vector<Cost> costs;
  const auto settle = [device] { return memory::synchronize(device, {}); };
  PlanOptions plan_options;
  plan_options.device = device;
  for (const std::int64_t m : {std::int64_t{0}, std::int64_t{1}, kSize}) {
    Problem problem;
    problem.m = m;
    problem.n = problem.k = problem.group_size = kSize;
    const Result<Plan> chosen = plan(problem, plan_options);
    if (!chosen.ok()) return chosen.status();
    const auto workspace = memory::allocate(device, chosen->workspace_size());
    if (!workspace.ok()) return workspace.status();
    const Arguments arguments = {a->get(), &*packed, d->get()};
    for (const Result<Cost>& cost :
         {time_calls(
              fmt::format("plan, M={}", m), [&] { return plan(problem, plan_options).status(); }, settle),
          time_calls(
              fmt::format("run, M={}", m),
              [&] { return run(*chosen, arguments, workspace->get(), chosen->workspace_size()); }, settle)}) {
      if (!cost.ok()) return cost.status();
      costs.push_back(*cost);
    }
  }
  return costs;
}

Status write(const std::vector<Cost>& costs, Device device, const std::string& path) {
  nlohmann::ordered_json calls;
  for (const Cost& cost : costs) calls[cost.call] = {{"fastest_us", cost.fastest_us}, {"median_us", cost.median_us}};
  const nlohmann::ordered_json json = {{"device", to_string(device)},
                                       {"machete", kVersion},
                                       {"commit", build_info::kCommit},
                                       {"size", kSize},
                                       {"calls", calls}};
  std::ofstream file(path);
  file << json.dump(2) << '\n';
  file.close();
  if (file) return {};
  return {StatusCode::kIo, fmt::format("cannot write {}: {}", path, std::strerror(errno))};
}

}  // namespace

Status print_host_cost(Device device, const std::string& json_path) {
  const Result<std::vector<Cost>> costs = measure(device);
  if (!costs.ok()) return costs.status();
  if (!json_path.empty()) {
    if (Status status = write(*costs, device, json_path); !status.ok()) return status;
  }
  Table table({{"16x16 linear", Table::Align::kLeft}, {"fastest"}, {"median"}});
  for (const Cost& cost : *costs) {
    table.row({cost.call, fmt::format("{:.2f} µs", cost.fastest_us), fmt::format("{:.2f} µs", cost.median_us)});
  }
  table.print();
  return {};
}

}  // namespace machete::tools
