#include "table.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <utility>

namespace machete::tools {
namespace {

/// Characters of UTF-8 text: bytes that do not continue one.
std::size_t width(std::string_view text) {
  return static_cast<std::size_t>(
      std::count_if(text.begin(), text.end(), [](char c) { return (static_cast<unsigned char>(c) & 0xc0) != 0x80; }));
}

/// Headings may have two lines; what has one stands in the lower.
std::pair<std::string, std::string> heading_lines(const std::string& heading) {
  const std::size_t end = heading.find('\n');
  if (end == std::string::npos) return {"", heading};
  return {heading.substr(0, end), heading.substr(end + 1)};
}

std::string_view escape_of(Tone tone) {
  switch (tone) {
    case Tone::kPlain:
      return "";
    case Tone::kStrong:
      return "\033[1m";
    case Tone::kFaint:
      return "\033[2m";
    case Tone::kGood:
      return "\033[32m";
    case Tone::kBad:
      return "\033[1;31m";
  }
  return "";
}

std::string_view variable(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

}  // namespace

bool use_colour(std::FILE* stream) {
  return variable("NO_COLOR").empty() && variable("TERM") != "dumb" && ::isatty(::fileno(stream)) != 0;
}

std::string paint(std::string_view text, Tone tone, bool colour) {
  if (!colour || tone == Tone::kPlain || text.empty()) return std::string(text);
  return fmt::format("{}{}\033[0m", escape_of(tone), text);
}

void Table::row(std::vector<Cell> cells) {
  cells.resize(columns_.size(), "");
  rows_.push_back(std::move(cells));
}

void Table::rule() { rows_.emplace_back(); }

std::string Table::render(bool colour) const {
  constexpr std::string_view kGap = "  ";
  std::vector<std::size_t> widths;
  std::size_t across = 0;
  for (std::size_t c = 0; c < columns_.size(); ++c) {
    const auto [upper, lower] = heading_lines(columns_[c].heading);
    std::size_t widest = std::max(width(upper), width(lower));
    for (const auto& cells : rows_) {
      if (!cells.empty()) widest = std::max(widest, width(cells[c].text));
    }
    widths.push_back(widest);
    across += widest + (c == 0 ? 0 : kGap.size());
  }

  std::string out;
  const auto line = [&](const auto& cell_at) {
    std::string text;
    for (std::size_t c = 0; c < columns_.size(); ++c) {
      const Cell cell = cell_at(c);
      const std::string padding(widths[c] - width(cell.text), ' ');
      const std::string painted = paint(cell.text, cell.tone, colour);
      if (c != 0) text += kGap;
      text += columns_[c].align == Align::kLeft ? painted + padding : padding + painted;
    }
    text.erase(text.find_last_not_of(' ') + 1);
    out += text + '\n';
  };
  const auto rule_line = [&] {
    std::string dashes;
    for (std::size_t i = 0; i < across; ++i) dashes += "─";
    out += paint(dashes, Tone::kFaint, colour) + '\n';
  };

  const bool two_lines = std::any_of(columns_.begin(), columns_.end(), [](const Column& column) {
    return column.heading.find('\n') != std::string::npos;
  });
  if (two_lines) line([&](std::size_t c) { return Cell(heading_lines(columns_[c].heading).first, Tone::kStrong); });
  line([&](std::size_t c) { return Cell(heading_lines(columns_[c].heading).second, Tone::kStrong); });
  rule_line();
  for (const auto& cells : rows_) {
    if (cells.empty()) {
      rule_line();
    } else {
      line([&](std::size_t c) { return cells[c]; });
    }
  }
  return out;
}

void Table::print(std::FILE* stream) const {
  const std::string text = render(use_colour(stream));
  std::fwrite(text.data(), 1, text.size(), stream);
}

std::string human_bytes(double bytes) {
  constexpr std::array<const char*, 5> kUnits = {"B", "KiB", "MiB", "GiB", "TiB"};
  std::size_t unit = 0;
  for (; bytes >= 1024 && unit + 1 < kUnits.size(); ++unit) bytes /= 1024;
  return unit == 0 ? fmt::format("{:.0f} B", bytes) : fmt::format("{:.1f} {}", bytes, kUnits[unit]);
}

std::string human_us(double us) {
  if (us < 1000) return fmt::format("{:.1f} µs", us);
  if (us < 1e6) return fmt::format("{:.2f} ms", us / 1e3);
  return fmt::format("{:.2f} s", us / 1e6);
}

}  // namespace machete::tools
