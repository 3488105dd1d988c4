#include "tuning/table_file.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <fstream>
#include <iterator>
#include <map>
#include <nlohmann/json.hpp>
#include <tuple>
#include <utility>

#include "tuning/result_file.h"

namespace machete::tuning {
namespace {

using Json = nlohmann::ordered_json;
using Key = std::tuple<std::int64_t, std::int64_t, bool>;  // n, k, overlap

const Timing* find(const std::vector<Timing>& times, const std::string& schedule) {
  for (const Timing& timing : times) {
    if (timing.schedule == schedule) return &timing;
  }
  return nullptr;
}

// What the entries choose for so many tokens of a weight, or "".
std::string look_up(const std::vector<Entry>& entries, const Key& key, std::int64_t m) {
  for (const Entry& e : entries) {
    if (Key{e.n, e.k, e.overlap} == key && m <= e.m_max) return e.schedule;
  }
  return "";
}

std::string quoted(const std::string& text) { return Json(text).dump(-1, ' ', false, Json::error_handler_t::replace); }

template <class T>
std::string name_lines(const std::vector<T>& types) {
  std::vector<std::string> lines;
  for (const T type : types) lines.push_back(fmt::format("    \"{}\"", name_of(type)));
  return fmt::format("[\n{}\n  ]", fmt::join(lines, ",\n"));
}

}  // namespace

std::vector<Entry> entries_of(const std::vector<Measurement>& measurements, double tolerance,
                              const std::vector<Entry>& kept) {
  // Of each weight and way of launching, by tokens: what was timed, or null where a kept entry ends.
  std::map<Key, std::map<std::int64_t, const std::vector<Timing>*>> by_key;
  for (const Measurement& measurement : measurements) {
    const Point& point = measurement.point;
    if (!measurement.times.empty()) by_key[{point.n, point.k, point.overlap}][point.m] = &measurement.times;
  }
  for (const Entry& entry : kept) by_key[{entry.n, entry.k, entry.overlap}].emplace(entry.m_max, nullptr);

  std::vector<Entry> entries;
  for (const auto& [key, by_m] : by_key) {
    const auto [n, k, overlap] = key;
    std::string last;
    for (const auto& [m, times] : by_m) {
      std::string choice = look_up(kept, key, m);
      if (times != nullptr) {
        const Timing& best = *std::min_element(times->begin(), times->end(),
                                               [](const Timing& a, const Timing& b) { return a.us < b.us; });
        const auto near = [&, &all = *times](const std::string& schedule) {
          const Timing* timing = find(all, schedule);
          return timing != nullptr && timing->us <= best.us * (1 + tolerance);
        };
        if (!near(choice)) choice = near(last) ? last : best.schedule;
      }
      if (choice == last) {
        entries.back().m_max = m;
      } else {
        entries.push_back({n, k, m, overlap, choice});
        last = choice;
      }
    }
  }
  std::sort(entries.begin(), entries.end(), [](const Entry& a, const Entry& b) {
    return std::tie(a.n, a.k, a.overlap, a.m_max) < std::tie(b.n, b.k, b.overlap, b.m_max);
  });
  return entries;
}

std::string to_text(const TableFile& table) {
  std::vector<std::string> lines;
  for (const Entry& e : table.entries) {
    lines.push_back(fmt::format(R"(    {{"n": {}, "k": {}, "m_max": {}, "overlap": {}, "schedule": {}}})", e.n, e.k,
                                e.m_max, e.overlap, quoted(e.schedule)));
  }
  const std::string a_types =
      table.a_types.empty() ? "" : fmt::format("  \"a_types\": {},\n", name_lines(table.a_types));
  const std::string group_sizes =
      table.group_sizes.empty() ? "" : fmt::format("  \"group_sizes\": [{}],\n", fmt::join(table.group_sizes, ", "));
  return fmt::format(
      "{{\n  \"gpu\": {},\n  \"w_types\": {},\n{}{}  \"provenance\": {},\n  \"entries\": [\n{}\n  ]\n}}\n",
      quoted(table.gpu), name_lines(table.w_types), a_types, group_sizes, quoted(table.provenance),
      fmt::join(lines, ",\n"));
}

Result<TableFile> parse_table(const std::string& text, const std::string& path) {
  TableFile table;
  const auto broken = [&](const std::string& why) {
    return Status(StatusCode::kCorrupt,
                  fmt::format("{} is not a tuning table: {}; tuning/README.md describes them", path, why));
  };
  try {
    const Json json = Json::parse(text);
    json.at("gpu").get_to(table.gpu);
    json.at("provenance").get_to(table.provenance);
    for (const std::string name : json.at("w_types")) {
      const Result<WeightType> type = parse_weight_type(name);
      if (!type.ok()) return broken(type.status().message());
      table.w_types.push_back(*type);
    }
    for (const std::string name : json.value("a_types", Json::array())) {
      const Result<DataType> type = parse_data_type(name);
      if (!type.ok()) return broken(type.status().message());
      table.a_types.push_back(*type);
    }
    for (const std::int64_t size : json.value("group_sizes", Json::array())) table.group_sizes.push_back(size);
    for (const Json& entry : json.at("entries")) {
      table.entries.push_back(
          {entry.at("n"), entry.at("k"), entry.at("m_max"), entry.value("overlap", false), entry.at("schedule")});
    }
  } catch (const Json::exception& error) {
    return broken(error.what());
  }
  return table;
}

Result<TableFile> read_table(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) return io_error("read", path);
  const std::string text{std::istreambuf_iterator<char>(file), {}};
  return parse_table(text, path);
}

}  // namespace machete::tuning
