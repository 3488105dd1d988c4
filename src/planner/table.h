#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "machete/linear.h"

namespace machete::planner {

/// One measured choice: for weights of this shape and up to this many tokens.
struct TableEntry {
  std::int64_t n;
  std::int64_t k;
  std::int64_t m_max;
  bool overlap;  // measured with dependent launch
  const char* schedule;
};

/// The choices measured on a GPU, by the start of its name, for types that cost the same; generated from tuning/*.json,
/// which says when and how.
struct Table {
  const char* gpu;
  std::vector<WeightType> w_types;
  std::vector<DataType> a_types;
  std::vector<std::int64_t> group_sizes;  // empty: those that have no table of their own
  std::vector<TableEntry> entries;        // by n, k, overlap, then m_max
};

const std::vector<Table>& tables();

/// The schedule measured best for the problem, or null where none was: in its group size, or else in those that tables
/// have in common. Where dependent launch was not measured, plain launches decide.
const char* look_up(const std::vector<Table>& tables, std::string_view gpu, const Problem& problem, bool overlap);

}  // namespace machete::planner
