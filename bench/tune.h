#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "bench/runner.h"
#include "machete/status.h"
#include "machete/types.h"
#include "tuning/measurement.h"

namespace machete::bench {

/// The shapes of suites; empty: of every suite.
Result<std::vector<tuning::Size>> sizes_of_suites(const std::vector<std::string>& names);

struct TunerOptions {
  WeightType w_type = WeightType::kU4b8;
  DataType a_type = DataType::kBf16;
  std::int64_t group_size = 128;
  int top = 14;                      // worth_measuring()
  std::vector<std::string> without;  // families
  std::vector<tuning::Size> sizes;   // that will be measured
  std::int64_t max_m = 8192;         // likewise
};

/// Times the schedules that a table chooses among, as the benchmark times linears.
class Tuner {
 public:
  /// Makes the device current and takes the memory.
  Status set_up(TunerOptions options, int device);
  const DeviceFacts& facts() const { return runner_.facts(); }

  /// None where no schedule serves the point. Fastest for points of one weight after the other.
  Result<std::vector<tuning::Timing>> measure(const tuning::Point& point);

 private:
  Suite suite_of(const tuning::Size& size) const;
  RotatedWeight::Options weight_options() const;

  TunerOptions options_;
  Runner runner_;
  tuning::Size staged_;  // whose weight stage_ has
  std::optional<Stage> stage_;
};

}  // namespace machete::bench
