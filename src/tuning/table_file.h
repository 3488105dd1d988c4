#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "machete/status.h"
#include "machete/types.h"
#include "tuning/measurement.h"

namespace machete::tuning {

/// A measured choice: for weights of this shape, beyond the tokens of the entry before it and up to these.
struct Entry {
  std::int64_t n = 0;
  std::int64_t k = 0;
  std::int64_t m_max = 0;
  bool overlap = false;
  std::string schedule;
};

/// A file of tuning/, whose README describes it.
struct TableFile {
  std::string gpu;  // the start of the device's name
  std::vector<WeightType> w_types;
  std::vector<DataType> a_types;          // empty: those of 16 bits
  std::vector<std::int64_t> group_sizes;  // empty: those that no other table of the types names
  std::string provenance;
  std::vector<Entry> entries;
};

/// The fastest schedule at every point, merged along the tokens: as long as that costs no more than `tolerance` of the
/// best, what `kept` chooses stays, and else the choice for fewer tokens is kept on. What `kept` chooses also stays
/// where nothing was measured: for other sizes and ways of launching, and where its entries end between the tokens
/// measured. In the order of a table's entries. Points where nothing was timed give none.
std::vector<Entry> entries_of(const std::vector<Measurement>& measurements, double tolerance,
                              const std::vector<Entry>& kept = {});

std::string to_text(const TableFile& table);
Result<TableFile> parse_table(const std::string& text, const std::string& path);  // which errors name
Result<TableFile> read_table(const std::string& path);

}  // namespace machete::tuning
