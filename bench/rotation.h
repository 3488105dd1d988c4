#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <vector>

#include "bench/arena.h"
#include "bench/suite.h"
#include "machete/status.h"
#include "machete/types.h"
#include "machete/weight.h"

namespace machete::bench {

/// Copies of one thing, taken in turn, so that a repetition does not find the bytes of the last one in a cache.
struct Rotation {
  std::vector<void*> copies;

  void* operator[](std::int64_t i) const { return copies[static_cast<std::size_t>(i) % copies.size()]; }
};

/// `copies` pieces of the arena.
Rotation take_copies(Arena& arena, std::size_t bytes, std::int64_t copies);

/// One linear's weight on the device in the forms that are timed, each rotated past L2: all copies together are at
/// least four times its size.
class RotatedWeight {
 public:
  struct Options {
    DataType a_type = DataType::kBf16;
    WeightType w_type = WeightType::kU4b8;
    std::int64_t group_size = 128;
    bool swiglu = false;     // packed for that epilogue
    bool act_order = false;  // with g_idx, its groups' k's mixed
    bool dense = true;       // also the form that cuBLAS takes, of a_type
    std::int64_t l2_bytes = 0;
    Device device;

    DataType scale_type() const { return bits_of(a_type) == 16 ? a_type : DataType::kBf16; }  // and of outputs
  };

  /// Takes the memory. With a counting arena the object only knows its sizes.
  static Result<RotatedWeight> place(const Shape& shape, const Options& options, Arena& arena);

  /// Random codes, scales and zero points, prepacked once and copied.
  Status fill(std::uint64_t seed, cudaStream_t stream);

  const Shape& shape() const { return shape_; }
  const QuantizedWeight& canonical() const { return canonical_; }
  /// For plans with the epilogue swiglu or without. What is not packed so has the same bytes in the other order: the
  /// time is right, the numbers are not.
  const PackedWeight& packed(std::int64_t i, bool swiglu) const {
    const auto& weights = packed_weights_[swiglu ? 1 : 0];
    return weights[static_cast<std::size_t>(i) % weights.size()];
  }
  const void* dense(std::int64_t i) const { return dense_[i]; }

  /// The fewest bytes that a run with M tokens moves: weight, scales, zero points, activations and output, once each.
  std::int64_t bytes(std::int64_t m) const;

 private:
  Shape shape_;
  Options options_;
  PackedHeader header_;
  void* qweight_ = nullptr;        // [N, row_bytes]
  void* scales_ = nullptr;         // [groups, N] of a_type
  void* zero_points_ = nullptr;    // [groups, N] of u8, of types that have them
  std::int32_t* g_idx_ = nullptr;  // [K], where asked for
  QuantizedWeight canonical_;
  Rotation packed_;
  std::vector<PackedWeight> packed_weights_[2];  // of packed_: in the rows' own order, and for swiglu
  Rotation dense_;                               // [N, K] of a_type
};

}  // namespace machete::bench
