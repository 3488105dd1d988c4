#pragma once

#include <cstdint>
#include <initializer_list>
#include <string>
#include <string_view>
#include <vector>

#include "formats/checkpoint.h"
#include "formats/foreign.h"
#include "machete/status.h"

/// What readers of foreign layers share.
namespace machete::formats {

/// The tensors of one layer, NAME.suffix, looked up and checked on the way.
class LayerTensors {
 public:
  LayerTensors(const Checkpoint& checkpoint, std::string name) : checkpoint_(checkpoint), name_(std::move(name)) {}

  const std::string& name() const { return name_; }
  const Tensor* optional(const char* suffix) const { return checkpoint_.find(name_ + suffix); }
  const Tensor& at(const char* suffix) const { return *optional(suffix); }  // one that is known to be there

  /// There, of one of the dtypes, with two dimensions and an element.
  Result<const Tensor*> matrix(const char* suffix, std::initializer_list<std::string_view> dtypes) const;

  Status shape_is(const char* suffix, const Tensor& tensor, const std::vector<std::int64_t>& shape) const;
  Status dtype_is(const char* suffix, const Tensor& tensor, std::initializer_list<std::string_view> dtypes) const;
  Status corrupt(const char* suffix, const std::string& rule) const;

 private:
  const Checkpoint& checkpoint_;
  std::string name_;
};

/// "a" for "a.suffix"; empty where the name ends otherwise, or is nothing else.
std::string without_suffix(const std::string& name, std::string_view suffix);

/// The 32-bit word at `index`, wherever it lies.
std::uint32_t word_at(const Tensor& tensor, std::int64_t index);

/// Element i of those that share a word, the first in the lowest bits; bits is 4 or 8.
inline std::uint8_t element(std::uint32_t word, int bits, std::int64_t i) {
  return static_cast<std::uint8_t>(word >> (bits * i) & ((1u << bits) - 1));
}

constexpr std::int64_t per_word(int bits) { return 32 / bits; }

/// The words that `count` elements take.
constexpr std::int64_t words_of(std::int64_t count, int bits) { return (count + per_word(bits) - 1) / per_word(bits); }

/// Whether `bits` are those of a type of ours; else the layer gets its obstacle.
bool has_type(int bits, ForeignLayer& layer);

/// Fills in the size of groups when K falls into `groups` of them, and act_order where g_idx [K] is there and names
/// them in another order than theirs.
Status find_group_size(const LayerTensors& tensors, const char* g_idx_suffix, std::int64_t groups, ForeignLayer& layer);

/// The group of each k of a layer with act_order; else nothing.
std::vector<std::int32_t> read_order(const LayerTensors& tensors, const char* g_idx_suffix, const ForeignLayer& layer);

/// Fills in the type: with zero points where one of them differs from the middle. `zeros` may be empty.
void find_type(const std::vector<std::uint8_t>& zeros, ForeignLayer& layer);

}  // namespace machete::formats
