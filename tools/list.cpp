#include <fmt/format.h>

#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "command.h"
#include "machete/linear.h"
#include "options.h"
#include "table.h"

namespace machete::tools {
namespace {

using Align = Table::Align;
using Json = nlohmann::ordered_json;

struct Options : ProblemOptions {
  bool json = false;
};

void list_all(bool json) {
  const std::vector<KernelInfo> kernels = list_kernels();
  if (json) {
    Json list = Json::array();
    for (const KernelInfo& kernel : kernels) {
      list.push_back({{"name", kernel.name},
                      {"backend", name_of(kernel.backend)},
                      {"w_type", name_of(kernel.w_type)},
                      {"a_type", name_of(kernel.a_type)},
                      {"scale_type", name_of(kernel.scale_type)},
                      {"max_m", kernel.max_m},
                      {"group_sizes", kernel.group_sizes},
                      {"epilogues", kernel.epilogues}});
    }
    fmt::print("{}\n", Json{{"kernels", list}}.dump(2));
    return;
  }
  Table table({{"kernel", Align::kLeft}, {"on", Align::kLeft}, {"weights"}, {"activations"}, {"scales"}});
  for (const KernelInfo& kernel : kernels) {
    table.row({kernel.name, std::string(name_of(kernel.backend)), std::string(name_of(kernel.w_type)),
               std::string(name_of(kernel.a_type)), std::string(name_of(kernel.scale_type))});
  }
  table.print();
}

Status list_for(const Options& options) {
  const Problem problem = options.problem();
  PlanOptions plan_options;
  plan_options.device = options.target();
  const Result<std::vector<ScheduleChoice>> choices = list_schedules(problem, plan_options);
  if (!choices.ok()) return choices.status();
  if (options.json) {
    Json list = Json::array();
    for (const ScheduleChoice& choice : *choices) list.push_back(to_json(choice));
    fmt::print(
        "{}\n",
        Json{{"problem", to_json(problem)}, {"device", to_string(options.target())}, {"schedules", list}}.dump(2));
    return {};
  }
  for (const ScheduleChoice& choice : *choices) fmt::print("{}\n", choice.name);
  return {};
}

}  // namespace

Command add_list(CLI::App& app) {
  CLI::App* command = app.add_subcommand("list", "The kernels of this build, or the schedules for a problem");
  command->footer(R"(Without sizes: every kernel compiled into this build. With M N K: the names of the schedules that
serve this problem, best first, as 'machete explain --schedule' and 'machete bench --schedule' take them.

Examples:
  machete list
  machete list 16 4096 4096 --a f16 --device cuda)");
  auto options = std::make_shared<Options>();
  options->add_to(*command, /*required=*/false);
  add_json(*command, options->json);
  return {command, [options] {
            if (options->m) return list_for(*options);
            list_all(options->json);
            return Status();
          }};
}

}  // namespace machete::tools
