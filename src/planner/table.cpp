#include "planner/table.h"

#include <algorithm>

namespace machete::planner {
namespace {

template <class T>
bool holds(const std::vector<T>& all, T one) {
  return std::find(all.begin(), all.end(), one) != all.end();
}

const char* look_up(const Table& table, const Problem& problem, bool overlap) {
  for (const TableEntry& entry : table.entries) {
    if (entry.n == problem.n && entry.k == problem.k && entry.overlap == overlap && problem.m <= entry.m_max) {
      return entry.schedule;
    }
  }
  return nullptr;
}

}  // namespace

const char* look_up(const std::vector<Table>& tables, std::string_view gpu, const Problem& problem, bool overlap) {
  for (const bool own : {true, false}) {  // a table of the group size
    for (const bool launch : {overlap, false}) {
      for (const Table& table : tables) {
        if (gpu.substr(0, std::string_view(table.gpu).size()) != table.gpu) continue;
        if (!holds(table.w_types, problem.w_type) || !holds(table.a_types, problem.a_type)) continue;
        if (own ? !holds(table.group_sizes, problem.group_size) : !table.group_sizes.empty()) continue;
        if (const char* schedule = look_up(table, problem, launch); schedule != nullptr) return schedule;
      }
    }
  }
  return nullptr;
}

}  // namespace machete::planner
