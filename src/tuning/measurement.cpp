#include "tuning/measurement.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cstddef>
#include <set>
#include <system_error>

namespace machete::tuning {
namespace {

// Kernels that gain by dependent launch serve up to so many tokens.
constexpr std::int64_t kMostOverlapped = 64;

}  // namespace

std::string to_string(const Size& size) { return fmt::format("{}x{}", size.n, size.k); }

Result<Size> parse_size(const std::string& text) {
  Size size;
  const char* const end = text.data() + text.size();
  const auto [middle, error] = std::from_chars(text.data(), end, size.n);
  if (error == std::errc() && middle != end && *middle == 'x') {
    const auto [stop, second_error] = std::from_chars(middle + 1, end, size.k);
    if (second_error == std::errc() && stop == end && size.n > 0 && size.k > 0) return size;
  }
  return Status(StatusCode::kInvalidArgument,
                fmt::format("shape '{}' must be output times input features, both positive: 4096x14336", text));
}

std::vector<std::int64_t> default_ms() {
  return {1,   2,   4,   8,   16,  32,  48,  64,   96,   128,  160,  192,  224,
          256, 320, 384, 448, 512, 640, 768, 1024, 1536, 2048, 3072, 4096, 8192};
}

std::vector<Point> points_of(const std::vector<Size>& sizes, const std::vector<std::int64_t>& ms) {
  std::vector<Point> points;
  std::set<Point> seen;
  for (const Size& size : sizes) {
    for (const std::int64_t m : ms) {
      for (const bool overlap : {false, true}) {
        const Point point{size.n, size.k, m, overlap};
        if (overlap && m > kMostOverlapped) continue;
        if (seen.insert(point).second) points.push_back(point);
      }
    }
  }
  return points;
}

std::vector<std::string> worth_measuring(const std::vector<ScheduleChoice>& choices, int top,
                                         const std::vector<std::string>& without) {
  std::vector<const ScheduleChoice*> left;
  for (const ScheduleChoice& choice : choices) {
    const std::string family = choice.name.substr(0, choice.name.find('_'));
    if (std::find(without.begin(), without.end(), family) == without.end()) left.push_back(&choice);
  }
  if (left.empty()) return {};
  const ScheduleChoice* first = left.front();
  std::stable_sort(left.begin(), left.end(),
                   [](const ScheduleChoice* a, const ScheduleChoice* b) { return a->estimate_us < b->estimate_us; });
  const std::size_t kept = std::min(left.size(), static_cast<std::size_t>(std::max(top, 1)));
  const bool apart = std::find(left.begin(), left.begin() + static_cast<std::ptrdiff_t>(kept), first) ==
                     left.begin() + static_cast<std::ptrdiff_t>(kept);
  std::vector<std::string> names;
  if (apart) names.push_back(first->name);
  for (std::size_t i = 0; i < kept; ++i) names.push_back(left[i]->name);
  return names;
}

}  // namespace machete::tuning
