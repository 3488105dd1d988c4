#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <vector>

#include "api/memory.h"
#include "api/validate.h"
#include "kernels/prepack/host.h"
#include "machete/weight.h"
#include "planner/schedule.h"
#include "reference/numeric.h"
#include "registry/registry.h"

#if MACHETE_HAS_CUDA
#include "kernels/prepack/device.h"
#endif

namespace machete {
namespace {

packing::Shape shape_of(const PackedHeader& header) {
  return packing::shape_of(header.n, header.k, header.group_size, bits_of(header.type), header.swiglu != 0,
                           header.activation_bits);
}

Status check_weight(const QuantizedWeight& weight, DataType scale_type, bool swiglu, int activation_bits) {
  for (const Status& status :
       {validate::size("N", weight.n, 1), validate::size("K", weight.k, 1), validate::weight_type(weight.type),
        validate::group_size(weight.group_size), validate::compute_type("scale_type", scale_type),
        validate::scale_type(weight.scale_type), validate::activation_bits(activation_bits, weight.type)}) {
    if (!status.ok()) return status;
  }
  if (has_zero_points(weight.type)) {
    if (Status status = validate::zero_point_type(weight.zero_point_type); !status.ok()) return status;
  }
  if (!std::isfinite(weight.tensor_scale) || weight.tensor_scale == 0) {
    return {StatusCode::kInvalidArgument,
            fmt::format("tensor_scale={} must be finite and not 0; 1 where there is none", weight.tensor_scale)};
  }
  if (swiglu && weight.n % 2 != 0) {
    return {StatusCode::kInvalidArgument,
            fmt::format("N={} must be even for swiglu: as many rows of gate as of up", weight.n)};
  }
  if (weight.k > std::numeric_limits<std::int64_t>::max() / 16 / weight.n) {
    return {StatusCode::kInvalidArgument,
            fmt::format("N={} times K={} overflows; split the weight", weight.n, weight.k)};
  }
  return {};
}

// The CPU backend serves every type. On CUDA activations of some type must have a kernel that takes the weight.
Status check_served(const QuantizedWeight& weight, const PrepackOptions& options, const PackedHeader& header) {
  if (options.device.backend == Backend::kCpu) return {};
  const bool wide = options.activation_bits == 16;
  const char* refused = nullptr;
  for (const DataType a_type : {options.scale_type, DataType::kS8, DataType::kE4m3}) {
    if (wide != (a_type == options.scale_type)) continue;
    const auto kernels = registry::matching(weight.type, a_type, options.scale_type);
    if (kernels.empty()) continue;
    refused = planner::refusal(kernels, shape_of(header), 1);
    if (refused == nullptr) return {};
  }
  if (refused != nullptr) {
    return {StatusCode::kUnsupported,
            fmt::format("no CUDA kernel serves {} weights of K={}, group_size={} with {}-bit activations: {}; {}",
                        name_of(weight.type), weight.k, weight.group_size, options.activation_bits, refused,
                        wide ? "MACHETE_INSTANCES=all builds more"
                             : "prepack for 16-bit ones, or requantise with other groups")};
  }
  return {
      StatusCode::kUnsupported,
      fmt::format("no CUDA kernel of this build serves {} weights with {}-bit activations and scales of {}; `machete "
                  "list` shows what it has, Device::cpu() serves every type",
                  name_of(weight.type), options.activation_bits, name_of(options.scale_type))};
}

Status check_zero_points(const QuantizedWeight& weight) {
  if (has_zero_points(weight.type)) {
    return validate::pointer("zero_points", weight.zero_points, bytes_of(weight.zero_point_type));
  }
  if (weight.zero_points == nullptr) return {};
  return {StatusCode::kInvalidArgument,
          fmt::format("zero_points must be null for {}, which has none; quantise without them", name_of(weight.type))};
}

// A tensor in CPU memory: where it lies, or a copy.
class OnCpu {
 public:
  static Result<OnCpu> get(const void* tensor, std::size_t bytes, Stream stream) {
    OnCpu result;
    result.data_ = tensor;
    const auto device = memory::device_of(tensor);
    if (!device.ok()) return device.status();
    if (device->backend == Backend::kCuda) {
      result.copy_.resize(bytes);
      const Status status = memory::copy(result.copy_.data(), Device::cpu(), tensor, *device, bytes, stream);
      if (!status.ok()) return status;
      result.data_ = result.copy_.data();
    }
    return result;
  }
  const void* data() const { return data_; }

 private:
  const void* data_ = nullptr;
  std::vector<std::uint8_t> copy_;
};

using Numbers = std::vector<std::uint16_t>;  // [groups, N] of the type that the kernels compute in

// Scales or zero points as such numbers, below a limit; refuses what they cannot hold.
Result<Numbers> convert_numbers(const char* name, const QuantizedWeight& weight, const void* given, DataType type,
                                float limit, const PrepackOptions& options) {
  Numbers converted(static_cast<std::size_t>(weight.groups() * weight.n));
  const auto source = OnCpu::get(given, converted.size() * bytes_of(type), options.stream);
  if (!source.ok()) return source.status();
  for (std::size_t i = 0; i < converted.size(); ++i) {
    const auto index = static_cast<std::int64_t>(i);
    const float value = reference::to_float(type, source->data(), index);
    const auto place = [&] { return fmt::format("{}[{}, {}]={}", name, index / weight.n, index % weight.n, value); };
    if (!std::isfinite(value)) {
      return Status(StatusCode::kInvalidArgument, place() + " must be finite; quantise the layer again");
    }
    reference::from_float(options.scale_type, converted.data(), index, value);
    const float kept = reference::to_float(options.scale_type, converted.data(), index);
    if (!std::isfinite(kept)) {
      return Status(StatusCode::kInvalidArgument,
                    fmt::format("{} is beyond the range of {}; use activations of another type", place(),
                                name_of(options.scale_type)));
    }
    if (std::abs(kept) >= limit) {
      return Status(StatusCode::kInvalidArgument,
                    fmt::format("{} must be less than {} in magnitude in {}; divide all scales by a power of two and "
                                "multiply tensor_scale by it",
                                place(), limit, name_of(options.scale_type)));
    }
    if (kept != value && !options.round_scales) {
      return Status(
          StatusCode::kInvalidArgument,
          fmt::format("{} has no exact {} value; set round_scales to accept {}, or use activations of type {}", place(),
                      name_of(options.scale_type), kept, name_of(type)));
    }
  }
  return converted;
}

Status pack_on_cpu(const QuantizedWeight& weight, const Numbers& scales, const Numbers& zero_points,
                   const std::vector<std::int32_t>& order, const PackedHeader& header, void* storage, Stream stream) {
  const auto q = OnCpu::get(weight.qweight, static_cast<std::size_t>(weight.n * weight.row_bytes()), stream);
  if (!q.ok()) return q.status();
  const packing::Shape shape = shape_of(header);
  auto* const packed = static_cast<std::uint8_t*>(storage);
  packing::pack_weights(static_cast<const std::uint8_t*>(q->data()), convert::coding_of(weight.type), shape,
                        order.empty() ? nullptr : order.data(), packed);
  auto* const packed_scales = reinterpret_cast<std::uint16_t*>(packed + header.weight_bytes);
  packing::pack_scales(scales.data(), shape, packed_scales);
  if (!zero_points.empty()) packing::pack_scales(zero_points.data(), shape, packed_scales + shape.scale_count());
  if (header.permutation_bytes > 0) {
    auto* const permutation =
        reinterpret_cast<std::int32_t*>(packed + header.payload_bytes() - header.permutation_bytes);
    std::memset(permutation, 0, header.permutation_bytes);
    std::copy(order.begin(), order.end(), permutation);
    if (order.empty()) std::iota(permutation, permutation + weight.k, 0);  // g_idx said nothing new, after all
  }
  return {};
}

#if MACHETE_HAS_CUDA
// What may lie anywhere, on the device.
class OnCuda {
 public:
  static Result<OnCuda> get(const void* tensor, std::size_t bytes, Device device, Stream stream) {
    OnCuda result;
    result.data_ = tensor;
    const auto where = memory::device_of(tensor);
    if (!where.ok()) return where.status();
    if (*where != device) {
      const auto copy = memory::allocate(device, bytes);
      if (!copy.ok()) return copy.status();
      result.copy_ = *copy;
      result.data_ = copy->get();
      const Status status = memory::copy(copy->get(), device, tensor, *where, bytes, stream);
      if (!status.ok()) return status;
    }
    return result;
  }
  template <class T>
  const T* as() const {
    return static_cast<const T*>(data_);
  }

 private:
  const void* data_ = nullptr;
  std::shared_ptr<void> copy_;
};

Status pack_on_cuda(const QuantizedWeight& weight, const Numbers& scales, const Numbers& zero_points,
                    const std::vector<std::int32_t>& order, const PackedHeader& header, void* storage, Device device,
                    Stream stream) {
  const packing::Shape shape = shape_of(header);
  const auto q = OnCuda::get(weight.qweight, static_cast<std::size_t>(weight.n * weight.row_bytes()), device, stream);
  if (!q.ok()) return q.status();
  auto* const packed = static_cast<std::uint8_t*>(storage);
  const std::int32_t* permutation = nullptr;
  if (header.permutation_bytes > 0) {
    std::vector<std::int32_t> padded(header.permutation_bytes / sizeof(std::int32_t), 0);
    std::iota(padded.begin(), padded.begin() + weight.k, 0);
    std::copy(order.begin(), order.end(), padded.begin());
    void* const place = packed + header.payload_bytes() - header.permutation_bytes;
    const Status status = memory::copy(place, device, padded.data(), Device::cpu(), header.permutation_bytes, stream);
    if (!status.ok()) return status;
    permutation = static_cast<const std::int32_t*>(place);
  }

  const memory::CurrentDevice current(device);
  Status status =
      memory::cuda_status(packing::pack_weights_on_device(q->as<std::uint8_t>(), convert::coding_of(weight.type), shape,
                                                          permutation, packed, stream.native),
                          "packing weights");
  if (!status.ok()) return status;
  std::uint8_t* place = packed + header.weight_bytes;
  for (const Numbers* numbers : {&scales, &zero_points}) {
    if (numbers->empty()) continue;
    const auto source = OnCuda::get(numbers->data(), numbers->size() * 2, device, stream);
    if (!source.ok()) return source.status();
    status = memory::cuda_status(packing::pack_scales_on_device(source->as<std::uint16_t>(), shape,
                                                                reinterpret_cast<std::uint16_t*>(place), stream.native),
                                 "packing scales");
    if (!status.ok()) return status;
    status = memory::synchronize(device, stream);  // before the copy goes
    if (!status.ok()) return status;
    place += header.scale_bytes;
  }
  return {};
}

// The kernels' conversions know neither NaN nor Inf; on the CPU they spoil their row, as the type has it.
Status check_codes(const QuantizedWeight& weight, Stream stream) {
  const convert::Coding coding = convert::coding_of(weight.type);
  bool spoils[256];  // of a byte
  for (int byte = 0; byte < 256; ++byte) {
    spoils[byte] = !coding.is_finite(byte % coding.codes()) || !coding.is_finite(byte >> (8 - coding.bits));
  }
  if (std::find(spoils, spoils + 256, true) == spoils + 256) return {};
  const std::int64_t row_bytes = weight.row_bytes();
  const auto bytes = static_cast<std::size_t>(weight.n * row_bytes);
  const auto q = OnCpu::get(weight.qweight, bytes, stream);
  if (!q.ok()) return q.status();
  const auto* codes = static_cast<const std::uint8_t*>(q->data());
  const auto* found = std::find_if(codes, codes + bytes, [&](std::uint8_t byte) { return spoils[byte]; });
  if (found == codes + bytes) return {};
  const bool second = coding.is_finite(*found % coding.codes());
  const float value = coding.value(second ? *found >> (8 - coding.bits) : *found % coding.codes());
  return {StatusCode::kInvalidArgument,
          fmt::format("qweight[{}, {}] is {}, which CUDA kernels do not serve; quantise the layer again",
                      (found - codes) / row_bytes, (found - codes) % row_bytes * 8 / coding.bits + (second ? 1 : 0),
                      std::isnan(value) ? "NaN" : "infinite")};
}
#endif

// The order of K in which groups are together: [K], the k's of group 0, then those of group 1, ... Empty for the order
// that they have anyway.
Result<std::vector<std::int32_t>> find_order(const QuantizedWeight& weight, Stream stream) {
  std::vector<std::int32_t> order;
  if (weight.g_idx == nullptr) return order;
  const auto size = static_cast<std::size_t>(weight.k);
  const auto source = OnCpu::get(weight.g_idx, size * 4, stream);
  if (!source.ok()) return source.status();
  const auto* g_idx = static_cast<const std::int32_t*>(source->data());
  for (std::int64_t k = 0; k < weight.k; ++k) {
    if (g_idx[k] >= 0 && g_idx[k] < weight.groups()) continue;
    return Status(
        StatusCode::kInvalidArgument,
        fmt::format("g_idx[{}]={} must be at least 0 and less than the {} groups", k, g_idx[k], weight.groups()));
  }
  order.resize(size);
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](std::int32_t a, std::int32_t b) { return g_idx[a] < g_idx[b]; });
  for (std::int64_t i = 0; i < weight.k; ++i) {
    const std::int64_t expected = weight.group_size > 0 ? i / weight.group_size : 0;
    const std::int64_t found = g_idx[order[static_cast<std::size_t>(i)]];
    if (found == expected) continue;
    return Status(StatusCode::kInvalidArgument,
                  fmt::format("g_idx has group {} {} often; each must have {} k's, the last the rest",
                              std::min(found, expected), found < expected ? "too" : "not", weight.group_size));
  }
  if (std::is_sorted(order.begin(), order.end())) order.clear();
  return order;
}

// Packed scales or zero points as [groups, N] again.
std::vector<std::uint8_t> unpack_numbers(const void* packed, const packing::Shape& shape) {
  std::vector<std::uint8_t> result(static_cast<std::size_t>(shape.groups() * shape.n) * 2);
  packing::unpack_scales(static_cast<const std::uint16_t*>(packed), shape,
                         reinterpret_cast<std::uint16_t*>(result.data()));
  return result;
}

}  // namespace

Result<PackedHeader> packed_header(const QuantizedWeight& weight, DataType scale_type, bool swiglu,
                                   int activation_bits) {
  const Status status = check_weight(weight, scale_type, swiglu, activation_bits);
  if (!status.ok()) return status;
  PackedHeader header;
  header.type = weight.type;
  header.scale_type = scale_type;
  header.activation_bits = static_cast<std::uint8_t>(activation_bits);
  header.n = weight.n;
  header.k = weight.k;
  header.group_size = weight.group_size;
  header.swiglu = swiglu ? 1 : 0;
  header.tensor_scale = weight.tensor_scale;
  const packing::Shape shape = shape_of(header);
  header.weight_bytes = static_cast<std::uint64_t>(shape.weight_bytes());
  header.scale_bytes = static_cast<std::uint64_t>(shape.scale_count()) * 2;
  if (has_zero_points(weight.type)) {
    header.zero_bytes = header.scale_bytes;
    header.zero_point_type = weight.zero_point_type == DataType::kU8 ? DataType::kU8 : scale_type;
  }
  if (weight.g_idx != nullptr) header.permutation_bytes = memory::padded(static_cast<std::uint64_t>(weight.k) * 4);
  return header;
}

Result<PackedWeight> prepack_into(const QuantizedWeight& weight, const PrepackOptions& options, void* storage,
                                  std::size_t bytes) {
  const auto header = packed_header(weight, options.scale_type, options.swiglu, options.activation_bits);
  if (!header.ok()) return header.status();
  for (const Status& status : {memory::check_device(options.device), check_served(weight, options, *header),
                               validate::pointer("qweight", weight.qweight, 1),
                               validate::pointer("scales", weight.scales, bytes_of(weight.scale_type)),
                               check_zero_points(weight), validate::pointer("storage", storage, memory::kAlignment)}) {
    if (!status.ok()) return status;
  }
  if (bytes < header->payload_bytes()) {
    return Status(StatusCode::kInvalidArgument,
                  fmt::format("storage of {} bytes must hold {}; packed_header() gives the size", bytes,
                              header->payload_bytes()));
  }
  const auto where = memory::device_of(storage);
  if (!where.ok()) return where.status();
  if (*where != options.device) {
    return Status(
        StatusCode::kInvalidArgument,
        fmt::format("storage lies on {}:{}, not on {}:{}; allocate it on options.device", name_of(where->backend),
                    where->ordinal, name_of(options.device.backend), options.device.ordinal));
  }
  constexpr float kNone = std::numeric_limits<float>::infinity();
  const bool folded = options.activation_bits == 16 && convert::coding_of(weight.type).folds_scales(options.scale_type);
  const auto scales = convert_numbers("scales", weight, weight.scales, weight.scale_type,
                                      folded ? convert::kFoldedScales : kNone, options);
  if (!scales.ok()) return scales.status();
  Result<Numbers> zero_points = Numbers();
  if (header->zero_bytes > 0) {
    zero_points = convert_numbers("zero_points", weight, weight.zero_points, weight.zero_point_type, kNone, options);
    if (!zero_points.ok()) return zero_points.status();
  }

  const auto order = find_order(weight, options.stream);
  if (!order.ok()) return order.status();

  Status status;
#if MACHETE_HAS_CUDA
  if (options.device.backend == Backend::kCuda) {
    status = check_codes(weight, options.stream);
    if (!status.ok()) return status;
    status = pack_on_cuda(weight, *scales, *zero_points, *order, *header, storage, options.device, options.stream);
  } else {
    status = pack_on_cpu(weight, *scales, *zero_points, *order, *header, storage, options.stream);
  }
#else
  status = pack_on_cpu(weight, *scales, *zero_points, *order, *header, storage, options.stream);
#endif
  if (!status.ok()) return status;
  return PackedWeight(*header, options.device, std::shared_ptr<const void>(storage, [](const void*) {}));
}

Result<PackedWeight> prepack(const QuantizedWeight& given, const PrepackOptions& options) {
  QuantizedWeight weight = given;
  if (const auto header = packed_header(weight, options.scale_type, options.swiglu, options.activation_bits);
      !header.ok()) {
    return header.status();
  }
  const auto order = find_order(weight, options.stream);
  if (!order.ok()) return order.status();
  if (order->empty()) weight.g_idx = nullptr;
  const auto header = packed_header(weight, options.scale_type, options.swiglu, options.activation_bits);
  const Status status = memory::check_device(options.device);
  if (!status.ok()) return status;
  const auto storage = memory::allocate(options.device, header->payload_bytes());
  if (!storage.ok()) return storage.status();
  const auto packed = prepack_into(weight, options, storage->get(), header->payload_bytes());
  if (!packed.ok()) return packed.status();
  return PackedWeight(*header, options.device, *storage);
}

Result<PackedWeight> copy_to(const PackedWeight& weight, Device device) {
  Status status = validate::header(weight.header());
  if (!status.ok()) return status;
  status = memory::check_device(device);
  if (!status.ok()) return status;
  const std::int64_t k = weight.header().k;
  if (weight.device() == Device::cpu()) {
    status = validate::permutation(weight.permutation(), k);
    if (!status.ok()) return status;
  }
  if (device == weight.device()) return weight;
  const std::size_t bytes = weight.header().payload_bytes();
  const auto storage = memory::allocate(device, bytes);
  if (!storage.ok()) return storage.status();
  status = memory::copy(storage->get(), device, weight.weights(), weight.device(), bytes);
  if (!status.ok()) return status;
  PackedWeight copy(weight.header(), device, *storage);
  if (device == Device::cpu()) {
    status = validate::permutation(copy.permutation(), k);
    if (!status.ok()) return status;
  }
  return copy;
}

Result<UnpackedWeight> unpack(const PackedWeight& weight) {
  const auto on_cpu = copy_to(weight, Device::cpu());
  if (!on_cpu.ok()) return on_cpu.status();
  const packing::Shape shape = shape_of(weight.header());
  UnpackedWeight result;
  const PackedHeader& header = weight.header();
  result.qweight.resize(static_cast<std::size_t>(shape.n * shape.row_bytes()));
  const std::int32_t* permutation = on_cpu->permutation();
  packing::unpack_weights(static_cast<const std::uint8_t*>(on_cpu->weights()), convert::coding_of(header.type), shape,
                          permutation, result.qweight.data());
  if (permutation != nullptr) {
    result.g_idx.resize(static_cast<std::size_t>(shape.k));
    for (std::int64_t k = 0; k < shape.k; ++k) {
      result.g_idx[static_cast<std::size_t>(permutation[k])] =
          static_cast<std::int32_t>(shape.group_size > 0 ? k / shape.group_size : 0);
    }
  }
  result.scales = unpack_numbers(on_cpu->scales(), shape);
  if (header.zero_bytes == 0) return result;
  result.zero_points = unpack_numbers(on_cpu->zero_points(), shape);
  result.zero_point_type = header.zero_point_type;
  if (header.zero_point_type != DataType::kU8) return result;
  const auto count = static_cast<std::size_t>(shape.groups() * shape.n);
  for (std::size_t i = 0; i < count; ++i) {  // in place: two bytes become one
    const float zero = reference::to_float(header.scale_type, result.zero_points.data(), static_cast<std::int64_t>(i));
    if (!(zero >= 0 && zero <= 255) || zero != std::floor(zero)) {
      return Status(StatusCode::kCorrupt,
                    fmt::format("the weight is damaged: its header promises zero points that are bytes, one is {}; "
                                "prepack it again",
                                zero));
    }
    result.zero_points[i] = static_cast<std::uint8_t>(zero);
  }
  result.zero_points.resize(count);
  return result;
}

}  // namespace machete
