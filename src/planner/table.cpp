#include "planner/table.h"

#include <algorithm>

namespace machete::planner {

const char* look_up(const std::vector<Table>& tables, std::string_view gpu, const Problem& problem, bool overlap) {
  if (bits_of(problem.a_type) != 16) return nullptr;  // none was measured with others
  for (const Table& table : tables) {
    if (gpu.substr(0, std::string_view(table.gpu).size()) != table.gpu) continue;
    if (std::find(table.w_types.begin(), table.w_types.end(), problem.w_type) == table.w_types.end()) continue;
    for (const TableEntry& entry : table.entries) {
      if (entry.n == problem.n && entry.k == problem.k && entry.overlap == overlap && problem.m <= entry.m_max) {
        return entry.schedule;
      }
    }
  }
  return overlap ? look_up(tables, gpu, problem, false) : nullptr;
}

}  // namespace machete::planner
