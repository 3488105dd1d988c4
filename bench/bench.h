#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "machete/epilogue.h"
#include "machete/status.h"
#include "machete/types.h"

namespace machete::bench {

struct BenchOptions {
  std::vector<std::string> suites;   // of suite_names(); empty: llama8b
  std::vector<std::string> linears;  // of the suites, by name; empty: all, and their chains
  std::vector<std::int64_t> ms;      // tokens, each >= 1; empty: 1, 2, 4, ..., 8192
  std::vector<DataType> a_types;     // empty: bf16 and f16
  WeightType w_type = WeightType::kU4b8;
  std::vector<std::int64_t> group_sizes{128};  // a multiple of 16, or -1
  std::string json_path;                       // where the results go; empty: nowhere
  // By the name of a linear, or "" for those that are not named: the schedule to force. What it does not serve is left
  // out.
  std::map<std::string, std::string> schedules;
  bool all_schedules = false;      // one row for every schedule that serves a problem
  int top = 0;                     // of all schedules only so many, best by the planner's estimate; 0: all
  bool overlap = false;            // plans with programmatic dependent launch
  bool batch_invariant = false;    // plans that give a token the same bits whatever M
  bool fast_accumulation = false;  // of e4m3 activations
  bool act_order = false;          // weights with g_idx
  Epilogue epilogue;               // of every linear; results are then not checked: the GPU tests do
  bool neighbours = false;         // chains among kernels of others (bench/neighbours.h), launched both ways
  bool timeline = false;           // print the course of each chain's kernels instead of timing linears
  bool cublas = true;              // time cuBLAS with dense weights beside it
  bool check = true;               // hold the results to their bounds before timing
  int device = 0;                  // the CUDA device
  std::string commit;              // recorded with the results
};

/// Times the suites: a table to stdout, progress to stderr, JSON to `json_path` (complete, or not at all). Errors: bad
/// options before anything runs; what CUDA, cuBLAS or the library reports; and, after everything has been measured and
/// written, rows whose results exceed their bounds.
Status run_bench(const BenchOptions& options);

}  // namespace machete::bench
