#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

#include "machete/epilogue.h"
#include "machete/status.h"
#include "machete/types.h"

namespace machete::bench {

struct Machine {
  std::string gpu;
  int sms = 0;
  std::string driver;
  std::string cuda;
};

struct Row {
  std::string suite, name;
  std::int64_t m = 0, n = 0, k = 0;
  DataType a_type = DataType::kBf16;
  WeightType w_type = WeightType::kU4b8;
  std::int64_t group_size = 0;
  std::string schedule;
  double us = 0;
  std::optional<double> cublas_us;
  std::optional<double> plain_us;  // the same schedule without the epilogue
  double read_floor_us = 0;
  double tflops = 0;
  double gb_s = 0;
  std::optional<double> rel_error;  // relative Frobenius norm; of the rows of D that were checked
  std::string fault;                // why the result is wrong; empty if it is right, or unchecked
};

/// The linears of a suite in turn.
struct ChainProblem {
  std::string suite;
  std::int64_t m = 0;
  DataType a_type = DataType::kBf16;
  WeightType w_type = WeightType::kU4b8;
  std::int64_t group_size = 0;
};

struct Chain {
  ChainProblem problem;
  double us = 0;
  std::optional<double> cublas_us;
  double read_floor_us = 0;
  bool wrong = false;  // one of its linears is
};

/// A chain with kernels of others between its linears.
struct Neighbours {
  ChainProblem problem;
  double others_us = 0;   // without the linears
  double plain_us = 0;    // with them, launched plainly
  double overlap_us = 0;  // with dependent launch
};

struct Report {
  Machine machine;
  std::string commit;
  std::string date;  // yyyy-mm-dd, UTC
  double read_tb_s = 0;
  bool overlap = false;  // programmatic dependent launch
  bool fast_accumulation = false;
  bool act_order = false;
  Epilogue epilogue;
  std::vector<Row> rows;
  std::vector<Chain> chains;
  std::vector<Neighbours> neighbours;
};

/// The file's contents; bench/README.md describes it. The times of wrong results are null: they are none.
nlohmann::ordered_json to_json(const Report& report);

/// The table on stdout, line by line as results come in, with the progress on stderr between them.
class Printer {
 public:
  Printer();
  void machine(const Report& report);
  void row(const Row& row);
  void chain(const Chain& chain);
  void neighbours(const Neighbours& chain);
  void note(const std::string& text);
  void progress(std::int64_t done, std::int64_t all, const std::string& what);

 private:
  void clear_progress();

  bool terminal_;  // of stderr
  bool progress_shown_ = false;
  std::string table_;  // the one whose head was printed last
};

}  // namespace machete::bench
