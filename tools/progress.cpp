#include "progress.h"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <utility>

namespace machete::tools {
namespace {

constexpr auto kFirstLine = std::chrono::seconds(2);
constexpr auto kLineInterval = std::chrono::seconds(10);

int columns_of_terminal() {
  winsize size = {};
  return ::ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col != 0 ? size.ws_col : 80;
}

}  // namespace

Progress::Progress(std::string what, std::int64_t total)
    : what_(std::move(what)),
      total_(std::max<std::int64_t>(total, 1)),
      terminal_(::isatty(STDERR_FILENO) != 0),
      next_line_(start_ + kFirstLine) {}

Progress::~Progress() {
  if (bar_shown_) std::fputs("\r\033[K", stderr);
}

void Progress::begin(const std::string& item) { show(item); }

void Progress::advance(std::int64_t amount) { done_ += amount; }

void Progress::show(const std::string& item) {
  const Clock::time_point now = Clock::now();
  const double fraction = std::min(1.0, static_cast<double>(done_) / static_cast<double>(total_));
  const double elapsed = std::chrono::duration<double>(now - start_).count();
  const std::string left =
      fraction > 0.02 && elapsed > 1 ? fmt::format(", {:.0f} s left", elapsed * (1 - fraction) / fraction) : "";
  if (!terminal_) {
    if (now < next_line_) return;
    next_line_ = now + kLineInterval;
    fmt::print(stderr, "{}: {:.0f}%{}\n", what_, 100 * fraction, left);
    return;
  }
  constexpr int kBarWidth = 24;
  const int filled = static_cast<int>(fraction * kBarWidth);
  std::string line = fmt::format("{} [{:#<{}}{:.<{}}] {:3.0f}%{}  {}", what_, "", filled, "", kBarWidth - filled,
                                 100 * fraction, left, item);
  line.resize(std::min(line.size(), static_cast<std::size_t>(columns_of_terminal() - 1)));
  fmt::print(stderr, "\r{}\033[K", line);
  bar_shown_ = true;
}

}  // namespace machete::tools
