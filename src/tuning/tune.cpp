#include "tuning/tune.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cstddef>
#include <set>
#include <utility>

#include "registry/registry.h"
#include "tuning/result_file.h"

namespace machete::tuning {
namespace {

// Measured in groups of it, a table serves all sizes that have none of their own.
constexpr std::int64_t kCommonGroupSize = 128;

// Those that run on the same kernels, the measured one first.
std::vector<WeightType> packed_alike(WeightType w_type) {
  std::vector<WeightType> types = {w_type};
  for (const WeightType other : weight_types()) {
    if (other != w_type && registry::packed_as(other) == registry::packed_as(w_type)) types.push_back(other);
  }
  return types;
}

template <class T>
std::string names_of(const std::vector<T>& types) {
  std::vector<std::string> names;
  for (const T type : types) names.emplace_back(name_of(type));
  return names.empty() ? "16 bits" : fmt::format("{}", fmt::join(names, ", "));
}

std::string sizes_of(const std::vector<std::int64_t>& group_sizes) {
  return group_sizes.empty() ? "any size" : fmt::format("{}", fmt::join(group_sizes, ", "));
}

template <class T>
bool same(std::vector<T> a, std::vector<T> b) {
  std::sort(a.begin(), a.end());
  std::sort(b.begin(), b.end());
  return a == b;
}

std::string provenance_of(const Setting& setting) {
  std::string text = fmt::format("machete tune at commit {} on {}, {}, driver {}, CUDA {}, {} x {}, group size {}",
                                 setting.commit, setting.date, setting.gpu, setting.driver, setting.cuda,
                                 name_of(setting.a_type), name_of(setting.w_type), setting.group_size);
  if (!setting.without.empty()) {
    text += fmt::format(", without the {} famil{}", fmt::join(setting.without, " and "),
                        setting.without.size() == 1 ? "y" : "ies");
  }
  return text;
}

Status check_kept(const TableFile& kept, const TableFile& table) {
  const auto refusal = [](const char* what, const std::string& has, const std::string& needs) {
    return Status(StatusCode::kInvalidArgument,
                  fmt::format("the table to merge is of {} {}, where {} is measured; merge one of the same, or none",
                              what, has, needs));
  };
  if (kept.gpu != table.gpu) return refusal("GPU", kept.gpu, table.gpu);
  if (!same(kept.w_types, table.w_types)) return refusal("weights", names_of(kept.w_types), names_of(table.w_types));
  if (!same(kept.a_types, table.a_types)) {
    return refusal("activations", names_of(kept.a_types), names_of(table.a_types));
  }
  if (!same(kept.group_sizes, table.group_sizes)) {
    return refusal("groups of", sizes_of(kept.group_sizes), sizes_of(table.group_sizes));
  }
  return {};
}

}  // namespace

std::string journal_path(const std::string& table) { return table + ".partial"; }
std::string measurements_path(const std::string& table) { return table + ".measurements"; }

std::string table_gpu(const std::string& device) {
  const std::size_t maker = device.find(' ');
  return maker == std::string::npos ? device : device.substr(0, device.find(' ', maker + 1));
}

Status tune(const Request& request, const Measure& measure, const Watch& watch) {
  TableFile table;
  table.gpu = table_gpu(request.setting.gpu);
  table.w_types = packed_alike(request.setting.w_type);
  if (bits_of(request.setting.a_type) != 16) table.a_types = {request.setting.a_type};
  if (request.setting.group_size != kCommonGroupSize) table.group_sizes = {request.setting.group_size};
  if (request.kept.has_value()) {
    if (Status status = check_kept(*request.kept, table); !status.ok()) return status;
  }
  Result<Journal> journal = Journal::open(journal_path(request.path), request.setting);
  if (!journal.ok()) return journal.status();
  ResultFile file;
  if (Status status = file.open(request.path); !status.ok()) return status;

  std::set<Point> measured;
  for (const Measurement& measurement : journal->measurements()) measured.insert(measurement.point);
  std::vector<Point> points = points_of(request.setting.sizes, request.setting.ms);
  const auto done = [&](const Point& point) { return measured.count(point) > 0; };
  points.erase(std::remove_if(points.begin(), points.end(), done), points.end());
  auto left = static_cast<std::int64_t>(points.size());
  for (const Point& point : points) {
    watch(point, left--);
    Result<std::vector<Timing>> times = measure(point);
    if (!times.ok()) {
      return {times.status().code(), fmt::format("N={} K={} M={}{}: {}", point.n, point.k, point.m,
                                                 point.overlap ? ", dependent launch" : "", times.status().message())};
    }
    if (Status status = journal->append({point, std::move(*times)}); !status.ok()) return status;
  }

  table.provenance = provenance_of(journal->setting());
  std::vector<Entry> kept;
  if (request.kept.has_value()) {
    const std::string& before = request.kept->provenance;
    const bool same_origin = before.compare(0, table.provenance.size(), table.provenance) == 0;
    table.provenance = same_origin ? before : table.provenance + "; elsewhere " + before;
    kept = request.kept->entries;
  }
  table.entries = entries_of(journal->measurements(), request.tolerance, kept);
  if (table.entries.empty()) {
    return {StatusCode::kUnsupported, "no schedule serves what was to be measured; the table would be empty"};
  }
  if (Status status = file.commit(to_text(table)); !status.ok()) return status;
  return journal->rename(measurements_path(request.path));
}

}  // namespace machete::tuning
