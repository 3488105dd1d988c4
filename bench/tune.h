#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "bench/runner.h"
#include "machete/status.h"
#include "tuning/journal.h"
#include "tuning/measurement.h"

namespace machete::bench {

/// The shapes of suites; empty: of every suite.
Result<std::vector<tuning::Size>> sizes_of_suites(const std::vector<std::string>& names);

/// Times the schedules that a table chooses among, as the benchmark times linears.
class Tuner {
 public:
  /// Makes the device current and takes the memory; fills in what the setting says of the card.
  Status set_up(tuning::Setting& setting, int device);

  /// None where no schedule serves the point. Fastest for points of one weight after the other.
  Result<std::vector<tuning::Timing>> measure(const tuning::Point& point);

 private:
  Suite suite_of(const tuning::Size& size) const;
  RotatedWeight::Options weight_options() const;

  tuning::Setting setting_;
  std::int64_t max_m_ = 0;
  Runner runner_;
  tuning::Size staged_;  // whose weight stage_ has
  std::optional<Stage> stage_;
};

}  // namespace machete::bench
