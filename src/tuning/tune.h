#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "machete/status.h"
#include "tuning/journal.h"
#include "tuning/measurement.h"
#include "tuning/table_file.h"

namespace machete::tuning {

/// Times the schedules of a point side by side.
using Measure = std::function<Result<std::vector<Timing>>(const Point& point)>;

/// Told of each point before it is measured; `left` are still to do, this one among them.
using Watch = std::function<void(const Point& point, std::int64_t left)>;

struct Request {
  Setting setting;
  std::string path;               // of the table
  std::optional<TableFile> kept;  // a table of the same GPU and types, whose entries stay where nothing is measured
  double tolerance = 0.01;        // entries_of()
};

/// Where a run's measurements are while it lasts, and when the table is written: kept, as the cost model is fitted to
/// them, and under another name, so that the next run measures anew.
std::string journal_path(const std::string& table);
std::string measurements_path(const std::string& table);

/// The start of a device's name that tables go by: "NVIDIA H100" of "NVIDIA H100 80GB HBM3".
std::string table_gpu(const std::string& device);

/// Measures what the journal lacks and writes the table, complete or not at all. Errors: a kept table of another GPU or
/// of other types, a journal of another setting, what measuring reports; what was measured until then stays in the
/// journal.
Status tune(const Request& request, const Measure& measure, const Watch& watch);

}  // namespace machete::tuning
