#pragma once

#include <chrono>
#include <cstdint>
#include <string>

namespace machete::tools {

/// How far long work has come, on stderr: a bar on a terminal, otherwise a line every few seconds. The bar is gone when
/// the work is done.
class Progress {
 public:
  Progress(std::string what, std::int64_t total);  // in any unit that grows with time
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  void begin(const std::string& item);  // what is worked on now
  void advance(std::int64_t amount);

 private:
  using Clock = std::chrono::steady_clock;

  void show(const std::string& item);

  std::string what_;
  std::int64_t total_;
  std::int64_t done_ = 0;
  bool terminal_;
  bool bar_shown_ = false;
  Clock::time_point start_ = Clock::now();
  Clock::time_point next_line_;
};

}  // namespace machete::tools
