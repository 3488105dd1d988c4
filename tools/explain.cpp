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
  std::string schedule;
  bool overlap = false;
  bool batch_invariant = false;
  bool json = false;
};

Status explain(const Options& options) {
  const Problem problem = options.problem();
  PlanOptions plan_options;
  plan_options.device = options.target();
  plan_options.schedule = options.schedule;
  plan_options.overlap = options.overlap;
  plan_options.batch_invariant = options.batch_invariant;
  const Result<Plan> chosen = plan(problem, plan_options);
  if (!chosen.ok()) return chosen.status();
  const Result<std::vector<ScheduleChoice>> choices = list_schedules(problem, plan_options);
  if (!choices.ok()) return choices.status();

  if (options.json) {
    Json json = {{"problem", to_json(problem)},         {"device", to_string(plan_options.device)},
                 {"schedule", chosen->schedule()},      {"workspace_bytes", chosen->workspace_size()},
                 {"forced", !options.schedule.empty()}, {"candidates", Json::array()}};
    for (const ScheduleChoice& choice : *choices) json["candidates"].push_back(to_json(choice));
    fmt::print("{}\n", json.dump(2));
    return {};
  }

  const bool colour = use_colour(stdout);
  fmt::print("{} on {} runs {}{}.\n\n", to_string(problem), to_string(plan_options.device),
             paint(chosen->schedule(), Tone::kGood, colour), options.schedule.empty() ? "" : ", as told");
  Table table({{"", Align::kLeft}, {"schedule", Align::kLeft}, {"estimate"}, {"workspace"}, {"why", Align::kLeft}});
  for (const ScheduleChoice& choice : *choices) {
    const bool runs = choice.name == chosen->schedule();
    table.row({runs ? ">" : "",
               {choice.name, runs ? Tone::kGood : Tone::kPlain},
               choice.estimate_us > 0 ? human_us(choice.estimate_us) : "",
               choice.workspace_size == 0 ? "none" : human_bytes(static_cast<double>(choice.workspace_size)),
               {choice.reason, Tone::kFaint}});
  }
  table.print();
  return {};
}

}  // namespace

Command add_explain(CLI::App& app) {
  CLI::App* command = app.add_subcommand("explain", "Which schedule runs for a problem, and why");
  command->footer(
      R"(D[M,N] = A[M,K] times W[N,K] transposed: M tokens through a layer of K inputs and N outputs. The table
holds every schedule that could serve the problem, best first by the planner's estimate; '>' marks the one that runs.

Examples:
  machete explain 1 4096 4096
  machete explain 512 28672 4096 --a f16 --group-size 64 --device cuda)");
  auto options = std::make_shared<Options>();
  options->add_to(*command, /*required=*/true);
  command->add_option("--schedule", options->schedule, "explain this schedule instead of the planner's")
      ->type_name("NAME");
  add_plan_flags(*command, options->overlap, options->batch_invariant);
  add_json(*command, options->json);
  return {command, [options] { return explain(*options); }};
}

}  // namespace machete::tools
