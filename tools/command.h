#pragma once

#include <CLI/CLI.hpp>
#include <functional>

#include "machete/status.h"

namespace machete::tools {

/// A subcommand: how its arguments are read, and what it then does.
struct Command {
  CLI::App* app = nullptr;
  std::function<Status()> run;
};

Command add_info(CLI::App& app);
Command add_list(CLI::App& app);
Command add_explain(CLI::App& app);
Command add_quantize(CLI::App& app);
Command add_inspect(CLI::App& app);
Command add_convert(CLI::App& app);
Command add_verify(CLI::App& app);
Command add_bench(CLI::App& app);
Command add_tune(CLI::App& app);

}  // namespace machete::tools
