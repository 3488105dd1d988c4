#pragma once

#include <cstdint>
#include <string>
#include <tuple>
#include <vector>

#include "machete/linear.h"
#include "machete/status.h"

namespace machete::tuning {

/// What is measured at once: a weight's shape, a number of tokens, a way of launching.
struct Point {
  std::int64_t n = 0;
  std::int64_t k = 0;
  std::int64_t m = 0;
  bool overlap = false;  // dependent launch

  friend bool operator<(const Point& a, const Point& b) {
    return std::tie(a.n, a.k, a.overlap, a.m) < std::tie(b.n, b.k, b.overlap, b.m);
  }
};

struct Timing {
  std::string schedule;
  double us = 0;
};

struct Measurement {
  Point point;
  std::vector<Timing> times;  // of the schedules that were tried, side by side
};

/// A weight's shape.
struct Size {
  std::int64_t n = 0;
  std::int64_t k = 0;
};
std::string to_string(const Size& size);  // "4096x14336"
Result<Size> parse_size(const std::string& text);

/// The numbers of tokens that tables are measured at: dense from 96 on, where tiles end (tuning/README.md).
std::vector<std::int64_t> default_ms();

/// Every size once, at every number of tokens, launched plainly and, up to 64 tokens, dependently: in the order in
/// which they are measured, size by size.
std::vector<Point> points_of(const std::vector<Size>& sizes, const std::vector<std::int64_t>& ms);

/// Of the choices that list_schedules gives, the `top` best by their estimates, and the first one, which the current
/// table may name against its estimate. Families left out do not count.
std::vector<std::string> worth_measuring(const std::vector<ScheduleChoice>& choices, int top,
                                         const std::vector<std::string>& without);

}  // namespace machete::tuning
