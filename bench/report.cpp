#include "bench/report.h"

#include <fmt/format.h>
#include <unistd.h>

#include <cmath>
#include <cstdio>
#include <nlohmann/json.hpp>

namespace machete::bench {
namespace {

using Json = nlohmann::ordered_json;

// Four significant digits more than the clock gives would be noise in the file.
Json number(std::optional<double> value) {
  if (!value || !std::isfinite(*value)) return nullptr;
  return std::strtod(fmt::format("{:.6g}", *value).c_str(), nullptr);
}

Json number_unless(bool wrong, double value) { return wrong ? Json(nullptr) : number(value); }

std::string or_dash(std::optional<double> value, const char* format) {
  return value ? fmt::format(fmt::runtime(format), *value) : "-";
}

std::optional<double> ratio(std::optional<double> other, double us) {
  if (!other) return std::nullopt;
  return *other / us;
}

std::string title_of(const ChainProblem& chain) {
  return fmt::format("{} chain, {} x {}, g{}", chain.suite, name_of(chain.a_type), name_of(chain.w_type),
                     chain.group_size);
}

}  // namespace

Json to_json(const Report& report) {
  Json rows = Json::array();
  for (const Row& row : report.rows) {
    const bool wrong = !row.fault.empty();
    rows.push_back({{"suite", row.suite},
                    {"name", row.name},
                    {"m", row.m},
                    {"n", row.n},
                    {"k", row.k},
                    {"a_type", name_of(row.a_type)},
                    {"w_type", name_of(row.w_type)},
                    {"group_size", row.group_size},
                    {"schedule", row.schedule},
                    {"us", number_unless(wrong, row.us)},
                    {"cublas_us", number(row.cublas_us)},
                    {"plain_us", number(row.plain_us)},
                    {"read_floor_us", number(row.read_floor_us)},
                    {"tflops", number_unless(wrong, row.tflops)},
                    {"gb_s", number_unless(wrong, row.gb_s)},
                    {"rel_error", number(row.rel_error)}});
  }
  Json chains = Json::array();
  for (const Chain& chain : report.chains) {
    chains.push_back({{"suite", chain.problem.suite},
                      {"m", chain.problem.m},
                      {"a_type", name_of(chain.problem.a_type)},
                      {"w_type", name_of(chain.problem.w_type)},
                      {"us", number_unless(chain.wrong, chain.us)},
                      {"cublas_us", number(chain.cublas_us)},
                      {"read_floor_us", number(chain.read_floor_us)}});
  }
  Json neighbours = Json::array();
  for (const Neighbours& chain : report.neighbours) {
    neighbours.push_back({{"suite", chain.problem.suite},
                          {"m", chain.problem.m},
                          {"a_type", name_of(chain.problem.a_type)},
                          {"w_type", name_of(chain.problem.w_type)},
                          {"group_size", chain.problem.group_size},
                          {"others_us", chain.others_us},
                          {"plain_us", chain.plain_us},
                          {"overlap_us", chain.overlap_us}});
  }
  return {{"machine",
           {{"gpu", report.machine.gpu},
            {"sms", report.machine.sms},
            {"driver", report.machine.driver},
            {"cuda", report.machine.cuda}}},
          {"commit", report.commit},
          {"date", report.date},
          {"read_tb_s", number(report.read_tb_s)},
          {"overlap", report.overlap},
          {"fast_accumulation", report.fast_accumulation},
          {"act_order", report.act_order},
          {"epilogue", name_of(report.epilogue)},
          {"rows", rows},
          {"chains", chains},
          {"neighbours", neighbours}};
}

Printer::Printer() : terminal_(isatty(STDERR_FILENO) != 0) {}

void Printer::clear_progress() {
  if (progress_shown_) fmt::print(stderr, "\r\033[K");
  progress_shown_ = false;
  static_cast<void>(std::fflush(stderr));
}

void Printer::machine(const Report& report) {
  clear_progress();
  fmt::print("{}, {} SMs, driver {}, CUDA {}; read-only stream {:.3f} TB/s\n", report.machine.gpu, report.machine.sms,
             report.machine.driver, report.machine.cuda, report.read_tb_s);
  static_cast<void>(std::fflush(stdout));
}

void Printer::row(const Row& row) {
  clear_progress();
  const std::string table =
      fmt::format("{}, {} x {}, g{}", row.suite, name_of(row.a_type), name_of(row.w_type), row.group_size);
  if (table != table_) {
    fmt::print("\n{}\n{:<15}{:>6}{:>7}{:>7}{:>10}{:>10}{:>9}{:>10}{:>7}{:>9}{:>9}{:>11}  {}\n", table, "linear", "M",
               "N", "K", "us", "cuBLAS", "x cuBLAS", "floor us", "floor", "TFLOP/s", "GB/s", "rel error", "schedule");
    table_ = table;
  }
  fmt::print("{:<15}{:>6}{:>7}{:>7}{:>10.2f}{:>10}{:>9}{:>10.2f}{:>6.0f}%{:>9.1f}{:>9.0f}{:>11}  {}{}{}\n", row.name,
             row.m, row.n, row.k, row.us, or_dash(row.cublas_us, "{:.2f}"),
             or_dash(ratio(row.cublas_us, row.us), "{:.2f}"), row.read_floor_us, 100 * row.read_floor_us / row.us,
             row.tflops, row.gb_s, or_dash(row.rel_error, "{:.2e}"), row.schedule,
             row.plain_us ? fmt::format(", {:.3f} x plain", row.us / *row.plain_us) : "",
             row.fault.empty() ? "" : "  WRONG: " + row.fault);
  static_cast<void>(std::fflush(stdout));
}

void Printer::chain(const Chain& chain) {
  clear_progress();
  const std::string table = title_of(chain.problem);
  if (table != table_) {
    fmt::print("\n{}\n{:<15}{:>6}{:>24}{:>10}{:>9}{:>10}{:>7}\n", table, "", "M", "us", "cuBLAS", "x cuBLAS",
               "floor us", "floor");
    table_ = table;
  }
  fmt::print("{:<15}{:>6}{:>24.2f}{:>10}{:>9}{:>10.2f}{:>6.0f}%{}\n", "all in turn", chain.problem.m, chain.us,
             or_dash(chain.cublas_us, "{:.2f}"), or_dash(ratio(chain.cublas_us, chain.us), "{:.2f}"),
             chain.read_floor_us, 100 * chain.read_floor_us / chain.us, chain.wrong ? "  WRONG: see its linears" : "");
  static_cast<void>(std::fflush(stdout));
}

void Printer::neighbours(const Neighbours& chain) {
  clear_progress();
  fmt::print(
      "{}, M={}: {:.2f} us with its neighbours, {:.2f} with dependent launch; {:.2f} without "
      "the linears\n",
      title_of(chain.problem), chain.problem.m, chain.plain_us, chain.overlap_us, chain.others_us);
  static_cast<void>(std::fflush(stdout));
}

void Printer::note(const std::string& text) {
  clear_progress();
  fmt::print(stderr, "{}\n", text);
}

void Printer::progress(std::int64_t done, std::int64_t all, const std::string& what) {
  if (terminal_) {
    clear_progress();
    fmt::print(stderr, "[{}/{}] {}", done, all, what);
    progress_shown_ = true;
  } else {
    fmt::print(stderr, "[{}/{}] {}\n", done, all, what);
  }
  static_cast<void>(std::fflush(stderr));
}

}  // namespace machete::bench
