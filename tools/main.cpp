#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <exception>
#include <new>
#include <string>
#include <string_view>
#include <vector>

#include "command.h"
#include "machete/version.h"
#include "table.h"

namespace {

constexpr int kFailure = 1;
constexpr int kUsage = 2;

constexpr const char* kExamples = R"(Examples:
  machete info
  machete quantize model.safetensors -o model-u4b8.safetensors --group-size 128
  machete verify model-u4b8.safetensors --reference model.safetensors
  machete explain 16 4096 4096

'machete COMMAND --help' explains a command; plot and bench-torch are of the Python package.
Exit status: 0 success, 1 failure, 2 wrong usage.)";

/// One clear line. Text from files may hold anything; a terminal shall not obey it.
int fail(int exit_code, std::string message) {
  for (char& c : message) {
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) c = ' ';
  }
  const std::string prefix =
      machete::tools::paint("machete: error:", machete::tools::Tone::kBad, machete::tools::use_colour(stderr));
  std::fprintf(stderr, "%s %s\n", prefix.c_str(), message.c_str());
  return exit_code;
}

int run(int argc, char** argv) {
  CLI::App app("Machete: matrix multiplication with 4-bit weights and 16-bit activations", "machete");
  app.require_subcommand(0, 1);
  app.get_formatter()->column_width(32);
  app.footer(kExamples);
  app.set_version_flag("--version", std::string("machete ") + machete::kVersion);
  const std::vector<machete::tools::Command> commands = {
      machete::tools::add_info(app),     machete::tools::add_list(app),    machete::tools::add_explain(app),
      machete::tools::add_quantize(app), machete::tools::add_inspect(app), machete::tools::add_convert(app),
      machete::tools::add_verify(app),   machete::tools::add_bench(app),   machete::tools::add_tune(app)};

  if (argc <= 1) {
    std::fputs(app.help().c_str(), stderr);
    return kUsage;
  }
  for (const std::string_view name : {"plot", "bench-torch"}) {
    if (argv[1] == name) return fail(kUsage, fmt::format("{0} is of the Python package: python -m machete {0}", name));
  }
  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& success) {  // --help, --version
    return app.exit(success);
  } catch (const CLI::ParseError& error) {
    std::string command = "machete";
    for (const auto& known : commands) {
      if (known.app->parsed()) command += " " + known.app->get_name();
    }
    return fail(kUsage, std::string(error.what()) + " (see '" + command + " --help')");
  }
  if (app.get_subcommands().empty()) return fail(kUsage, "no command is named (see 'machete --help')");
  for (const auto& command : commands) {
    if (!command.app->parsed()) continue;
    if (const machete::Status status = command.run(); !status.ok()) return fail(kFailure, status.message());
  }
  if (std::fflush(stdout) != 0 || std::ferror(stdout) != 0) return fail(kFailure, "cannot write to stdout");
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return run(argc, argv);
  } catch (const std::bad_alloc&) {
    return fail(kFailure, "out of memory");
  } catch (const std::exception& error) {
    return fail(kFailure, error.what());
  }
}
