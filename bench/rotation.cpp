#include "bench/rotation.h"

#include <algorithm>
#include <memory>
#include <utility>

#include "bench/dequantize.h"
#include "testing/cuda_status.h"
#include "testing/random.h"

namespace machete::bench {
namespace {

using testing::cuda_status;

std::int64_t copies_past_l2(std::int64_t bytes, std::int64_t l2_bytes) {
  return std::max<std::int64_t>(2, (4 * l2_bytes + bytes - 1) / bytes);
}

std::size_t size(std::int64_t bytes) { return static_cast<std::size_t>(bytes); }

Status copy_from_first(const Rotation& rotation, std::size_t bytes, cudaStream_t stream) {
  for (std::size_t i = 1; i < rotation.copies.size(); ++i) {
    const cudaError_t error =
        cudaMemcpyAsync(rotation.copies[i], rotation.copies[0], bytes, cudaMemcpyDeviceToDevice, stream);
    if (error != cudaSuccess) return cuda_status(error, "copy of a weight");
  }
  return {};
}

}  // namespace

Rotation take_copies(Arena& arena, std::size_t bytes, std::int64_t copies) {
  Rotation rotation;
  for (std::int64_t i = 0; i < copies; ++i) rotation.copies.push_back(arena.take(bytes));
  return rotation;
}

Result<RotatedWeight> RotatedWeight::place(const Shape& shape, const Options& options, Arena& arena) {
  RotatedWeight weight;
  weight.shape_ = shape;
  weight.options_ = options;
  QuantizedWeight& canonical = weight.canonical_;
  canonical.type = options.w_type;
  canonical.n = shape.n;
  canonical.k = shape.k;
  canonical.group_size = options.group_size;
  canonical.scale_type = options.scale_type();
  if (options.act_order) {
    canonical.g_idx = weight.g_idx_ = static_cast<std::int32_t*>(arena.take(size(shape.k * 4)));
  }
  const int activation_bits = bits_of(options.a_type);
  const Result<PackedHeader> header = packed_header(canonical, canonical.scale_type, options.swiglu, activation_bits);
  if (!header.ok()) return header.status();
  weight.header_ = *header;

  const std::int64_t element = static_cast<std::int64_t>(bytes_of(canonical.scale_type));
  canonical.qweight = weight.qweight_ = arena.take(size(shape.n * canonical.row_bytes()));
  canonical.scales = weight.scales_ = arena.take(size(canonical.groups() * shape.n * element));
  if (has_zero_points(options.w_type)) {
    canonical.zero_points = weight.zero_points_ = arena.take(size(canonical.groups() * shape.n));
  }
  const std::int64_t packed_bytes = static_cast<std::int64_t>(header->payload_bytes());
  weight.packed_ = take_copies(arena, size(packed_bytes), copies_past_l2(packed_bytes, options.l2_bytes));
  if (options.dense) {
    const std::int64_t dense_bytes = shape.n * shape.k * static_cast<std::int64_t>(bytes_of(options.a_type));
    weight.dense_ = take_copies(arena, size(dense_bytes), copies_past_l2(dense_bytes, options.l2_bytes));
  }
  return weight;
}

Status RotatedWeight::fill(std::uint64_t seed, cudaStream_t stream) {
  Status status = testing::fill_qweight(options_.w_type, qweight_, shape_.n, shape_.k, seed, stream);
  if (status.ok()) {
    status = testing::fill_scales(canonical_.scale_type, scales_, canonical_.groups(), shape_.n,
                                  testing::ScaleFill::kRandom, seed + 1, stream);
  }
  if (status.ok() && zero_points_ != nullptr) {
    status = testing::fill_zero_points(DataType::kU8, bits_of(options_.w_type), zero_points_, canonical_.groups(),
                                       shape_.n, seed + 2, stream);
  }
  if (status.ok() && g_idx_ != nullptr) status = testing::fill_g_idx(g_idx_, shape_.k, options_.group_size, stream);
  if (!status.ok()) return status;

  PrepackOptions prepack_options;
  prepack_options.device = options_.device;
  prepack_options.scale_type = canonical_.scale_type;
  prepack_options.activation_bits = bits_of(options_.a_type);
  prepack_options.swiglu = options_.swiglu;
  prepack_options.stream = Stream(stream);
  const std::size_t packed_bytes = size(static_cast<std::int64_t>(header_.payload_bytes()));
  const Result<PackedWeight> first = prepack_into(canonical_, prepack_options, packed_[0], packed_bytes);
  if (!first.ok()) return first.status();
  if (status = copy_from_first(packed_, packed_bytes, stream); !status.ok()) return status;
  PackedHeader header = first->header();
  for (const bool swiglu : {false, true}) {
    header.swiglu = swiglu ? 1 : 0;
    auto& weights = packed_weights_[header.swiglu];
    weights.clear();
    for (const void* copy : packed_.copies) {
      // The arena owns the bytes.
      weights.emplace_back(header, options_.device, std::shared_ptr<const void>(copy, [](const void*) {}));
    }
  }

  if (!options_.dense) return {};
  // Of 8 bits any numbers will do: cuBLAS has no place for the scales of groups.
  status = bits_of(options_.a_type) == 16
               ? dequantize(canonical_, options_.a_type, dense_[0], stream)
               : testing::fill_activations(options_.a_type, dense_[0], shape_.n, shape_.k, shape_.k,
                                           testing::ActivationFill::kNormal, seed + 3, stream);
  if (!status.ok()) return status;
  return copy_from_first(dense_, size(shape_.n * shape_.k) * bytes_of(options_.a_type), stream);
}

std::int64_t RotatedWeight::bytes(std::int64_t m) const {
  const auto element = static_cast<std::int64_t>(bytes_of(canonical_.scale_type));  // of D, too
  const auto a_element = static_cast<std::int64_t>(bytes_of(options_.a_type));
  const std::int64_t group_bytes = has_zero_points(options_.w_type) ? 2 * element : element;  // as packed
  return shape_.n * canonical_.row_bytes() + canonical_.groups() * shape_.n * group_bytes +
         m * (shape_.k * a_element + shape_.n * element);
}

}  // namespace machete::bench
