#include "planner/table.h"

namespace machete::planner {

const char* look_up(const std::vector<Table>& tables, std::string_view gpu, std::int64_t m, std::int64_t n,
                    std::int64_t k, bool overlap) {
  for (const Table& table : tables) {
    if (gpu.substr(0, std::string_view(table.gpu).size()) != table.gpu) continue;
    for (const TableEntry& entry : table.entries) {
      if (entry.n == n && entry.k == k && entry.overlap == overlap && m <= entry.m_max) return entry.schedule;
    }
  }
  return overlap ? look_up(tables, gpu, m, n, k, false) : nullptr;
}

}  // namespace machete::planner
