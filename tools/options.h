#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

#include "machete/linear.h"
#include "machete/problem.h"
#include "machete/types.h"

namespace machete::tools {

/// Options that several subcommands share. Each is checked while it is parsed, so that a wrong one is a usage error.
CLI::Option* add_device(CLI::App& app, std::optional<Device>& device);
CLI::Option* add_a_types(CLI::App& app, std::vector<DataType>& types);
CLI::Option* add_weight_type(CLI::App& app, WeightType& type);
CLI::Option* add_group_size(CLI::App& app, std::int64_t& group_size);
CLI::Option* add_fast_accumulation(CLI::App& app, bool& fast);
CLI::Option* add_json(CLI::App& app, bool& json);
CLI::Option* add_checkpoint(CLI::App& app, std::string& input);  // the positional INPUT

/// --overlap and --batch-invariant.
void add_plan_flags(CLI::App& app, bool& overlap, bool& batch_invariant);

/// A problem as `list` and `explain` take it: M N K, --a, --type, --group-size, --device.
struct ProblemOptions {
  std::optional<std::int64_t> m, n, k;  // all or none
  DataType a_type = DataType::kBf16;
  WeightType w_type = WeightType::kU4b8;
  std::int64_t group_size = 128;
  bool fast_accumulation = false;
  std::optional<Device> device;

  void add_to(CLI::App& app, bool required);
  Problem problem() const;
  Device target() const { return device ? *device : default_device(); }
};

/// "cpu" or "cuda:0".
std::string to_string(Device device);

/// "M=1 N=4096 K=4096, a bf16, w u4b8, group size 128"
std::string to_string(const Problem& problem);
nlohmann::ordered_json to_json(const Problem& problem);

nlohmann::ordered_json to_json(const ScheduleChoice& choice);

}  // namespace machete::tools
