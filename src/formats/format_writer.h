#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "formats/manifest.h"
#include "formats/tensor.h"
#include "machete/status.h"
#include "reference/quantize.h"

namespace machete::formats {

/// How layers of ours are written for other tools, so that reading them back gives the same codes, zero points and
/// scales. Types without zero points are written with the middle as theirs.
struct FormatWriter {
  std::string_view name;  // of the Format that reads it

  /// The tensors that a layer becomes. Errors: what the format cannot hold.
  Result<std::vector<TensorInfo>> (*tensors)(const QuantizedLayer& layer);

  /// Their bytes, in that order. Errors: zero points that the format cannot hold.
  Result<std::vector<std::vector<std::uint8_t>>> (*pack)(const QuantizedLayer& layer,
                                                         const reference::QuantizedTensor& weight);

  /// quantization_config of config.json, as JSON. `ignored`: linear layers that stay as they are. Errors: layers that
  /// one configuration cannot describe.
  Result<std::string> (*config)(const std::vector<QuantizedLayer>& layers, const std::vector<std::string>& ignored);
};

extern const FormatWriter kGptqWriter;
extern const FormatWriter kGptqV2Writer;
extern const FormatWriter kPackQuantizedWriter;

inline constexpr std::array kAllWriters = {&kGptqWriter, &kGptqV2Writer, &kPackQuantizedWriter};

/// The error of a layer that a format has no place for.
Status unwritable(std::string_view format, const QuantizedLayer& layer, const std::string& why);

/// Integers with integer zero points, or none, and plain scales: all that either format has a place for.
Status check_integers(std::string_view format, const QuantizedLayer& layer);

/// Unsigned elements that share words, the first in the lowest bits.
class WordPacker {
 public:
  WordPacker(std::int64_t words, int bits) : bits_(bits), bytes_(static_cast<std::size_t>(words) * 4) {}

  /// Element `place` of a word.
  void put(std::int64_t word, std::int64_t place, unsigned value) {
    const std::int64_t bit = place * bits_;
    std::uint8_t& byte = bytes_[static_cast<std::size_t>(word * 4 + bit / 8)];
    byte = static_cast<std::uint8_t>(byte | value << (bit % 8));
  }
  std::vector<std::uint8_t> take() { return std::move(bytes_); }

 private:
  int bits_;
  std::vector<std::uint8_t> bytes_;
};

}  // namespace machete::formats
