#pragma once

#include <cstdio>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace machete::tools {

/// Colours are for people: on a terminal, unless NO_COLOR is set (no-color.org) or the terminal is dumb.
bool use_colour(std::FILE* stream);

enum class Tone { kPlain, kStrong, kFaint, kGood, kBad };

/// The text in the tone's colour where `colour`, else as it is.
std::string paint(std::string_view text, Tone tone, bool colour);

/// Aligned columns under a heading.
class Table {
 public:
  enum class Align { kLeft, kRight };

  struct Column {
    std::string heading;  // one line or two
    Align align = Align::kRight;
  };

  struct Cell {
    std::string text;
    Tone tone = Tone::kPlain;
    Cell(std::string cell_text, Tone cell_tone = Tone::kPlain)  // NOLINT(google-explicit-constructor)
        : text(std::move(cell_text)), tone(cell_tone) {}
    Cell(const char* cell_text) : text(cell_text) {}  // NOLINT(google-explicit-constructor)
  };

  explicit Table(std::vector<Column> columns) : columns_(std::move(columns)) {}

  void row(std::vector<Cell> cells);  // missing cells are empty
  void rule();                        // a line across, as before totals
  std::string render(bool colour) const;
  void print(std::FILE* stream = stdout) const;

 private:
  std::vector<Column> columns_;
  std::vector<std::vector<Cell>> rows_;  // an empty row is a rule
};

/// "88 B", "1.2 KiB", "86.7 MiB"
std::string human_bytes(double bytes);

/// "4.2 µs", "1.30 ms", "2.10 s"
std::string human_us(double us);

}  // namespace machete::tools
