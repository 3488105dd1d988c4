#pragma once

#include <cstdint>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "machete/status.h"
#include "machete/types.h"
#include "tuning/measurement.h"

namespace machete::tuning {

/// What measurements of one table have in common.
struct Setting {
  std::string gpu;
  std::string driver;
  std::string cuda;
  std::string commit;
  std::string date;  // when they began, yyyy-mm-dd
  WeightType w_type = WeightType::kU4b8;
  DataType a_type = DataType::kBf16;
  std::int64_t group_size = 128;
  std::vector<Size> sizes;
  std::vector<std::int64_t> ms;
  int top = 0;                       // schedules a point
  std::vector<std::string> without;  // families left out
};

/// Measurements as they come in, a line each after one with their setting, so that nothing is measured twice when a run
/// is cut short. A line that was cut short itself is dropped.
class Journal {
 public:
  /// Goes on with the file, or begins it. Errors: a file of another setting, whatever its date.
  static Result<Journal> open(const std::string& path, const Setting& setting);

  const Setting& setting() const { return setting_; }  // with the date of the file
  const std::vector<Measurement>& measurements() const { return measurements_; }

  Status append(Measurement measurement);
  Status rename(const std::string& path);  // when it is complete

 private:
  struct Closer {
    void operator()(std::FILE* file) const { static_cast<void>(std::fclose(file)); }
  };
  using File = std::unique_ptr<std::FILE, Closer>;

  Status read(const std::string& text);
  Status write_line(const std::string& line);

  std::string path_;
  Setting setting_;
  std::vector<Measurement> measurements_;
  File file_;
};

}  // namespace machete::tuning
