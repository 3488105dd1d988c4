#include <fmt/format.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "api/memory.h"
#include "api/validate.h"
#include "kernels/prepack/host.h"
#include "machete/weight.h"
#include "reference/numeric.h"

#if MACHETE_HAS_CUDA
#include "kernels/prepack/device.h"
#endif

namespace machete {
namespace {

packing::Shape shape_of(const PackedHeader& header) { return packing::shape_of(header.n, header.k, header.group_size); }

Status check_weight(const QuantizedWeight& weight, DataType scale_type) {
  for (const Status& status :
       {validate::size("N", weight.n, 1), validate::size("K", weight.k, 1), validate::weight_type(weight.type),
        validate::group_size(weight.group_size), validate::compute_type("scale_type", scale_type)}) {
    if (!status.ok()) return status;
  }
  if (weight.k > std::numeric_limits<std::int64_t>::max() / 16 / weight.n) {
    return {StatusCode::kInvalidArgument,
            fmt::format("N={} times K={} overflows; split the weight", weight.n, weight.k)};
  }
  return {};
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

// The scales as 16-bit numbers of the type that the kernels multiply with; refuses what they cannot hold.
Result<std::vector<std::uint16_t>> convert_scales(const QuantizedWeight& weight, const void* scales,
                                                  const PrepackOptions& options) {
  std::vector<std::uint16_t> converted(static_cast<std::size_t>(weight.groups() * weight.n));  // [groups, N]
  for (std::size_t i = 0; i < converted.size(); ++i) {
    const auto index = static_cast<std::int64_t>(i);
    const float value = reference::to_float(weight.scale_type, scales, index);
    const auto place = [&] { return fmt::format("scales[{}, {}]={}", index / weight.n, index % weight.n, value); };
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
    if (kept != value && !options.round_scales) {
      return Status(
          StatusCode::kInvalidArgument,
          fmt::format("{} has no exact {} value; set round_scales to accept {}, or use activations of type {}", place(),
                      name_of(options.scale_type), kept, name_of(weight.scale_type)));
    }
  }
  return converted;
}

Status pack_on_cpu(const QuantizedWeight& weight, const std::vector<std::uint16_t>& scales, const packing::Shape& shape,
                   void* storage, Stream stream) {
  const auto q = OnCpu::get(weight.qweight, static_cast<std::size_t>(weight.n * ((weight.k + 1) / 2)), stream);
  if (!q.ok()) return q.status();
  auto* const packed = static_cast<std::uint8_t*>(storage);
  packing::pack_weights(static_cast<const std::uint8_t*>(q->data()), shape, packed);
  packing::pack_scales(scales.data(), shape, reinterpret_cast<std::uint16_t*>(packed + shape.weight_bytes()));
  return {};
}

#if MACHETE_HAS_CUDA
Status pack_on_cuda(const QuantizedWeight& weight, const std::vector<std::uint16_t>& scales,
                    const packing::Shape& shape, void* storage, Device device, Stream stream) {
  const auto q_device = memory::device_of(weight.qweight);
  if (!q_device.ok()) return q_device.status();
  const auto q_bytes = static_cast<std::size_t>(weight.n * ((weight.k + 1) / 2));
  const auto* q = static_cast<const std::uint8_t*>(weight.qweight);
  std::shared_ptr<void> q_copy;
  if (*q_device != device) {
    auto copy = memory::allocate(device, q_bytes);
    if (!copy.ok()) return copy.status();
    q_copy = *copy;
    const Status status = memory::copy(q_copy.get(), device, weight.qweight, *q_device, q_bytes, stream);
    if (!status.ok()) return status;
    q = static_cast<const std::uint8_t*>(q_copy.get());
  }
  const auto scales_copy = memory::allocate(device, scales.size() * 2);
  if (!scales_copy.ok()) return scales_copy.status();
  Status status = memory::copy(scales_copy->get(), device, scales.data(), Device::cpu(), scales.size() * 2, stream);
  if (!status.ok()) return status;

  const memory::CurrentDevice current(device);
  auto* const packed = static_cast<std::uint8_t*>(storage);
  status = memory::cuda_status(packing::pack_weights_on_device(q, shape, packed, stream.native), "packing weights");
  if (!status.ok()) return status;
  status = memory::cuda_status(
      packing::pack_scales_on_device(static_cast<const std::uint16_t*>(scales_copy->get()), shape,
                                     reinterpret_cast<std::uint16_t*>(packed + shape.weight_bytes()), stream.native),
      "packing scales");
  if (!status.ok()) return status;
  return memory::synchronize(device, stream);
}
#endif

}  // namespace

Result<PackedHeader> packed_header(const QuantizedWeight& weight, DataType scale_type) {
  const Status status = check_weight(weight, scale_type);
  if (!status.ok()) return status;
  PackedHeader header;
  header.type = weight.type;
  header.scale_type = scale_type;
  header.n = weight.n;
  header.k = weight.k;
  header.group_size = weight.group_size;
  const packing::Shape shape = shape_of(header);
  header.weight_bytes = static_cast<std::uint64_t>(shape.weight_bytes());
  header.scale_bytes = static_cast<std::uint64_t>(shape.scale_count()) * 2;
  return header;
}

Result<PackedWeight> prepack_into(const QuantizedWeight& weight, const PrepackOptions& options, void* storage,
                                  std::size_t bytes) {
  const auto header = packed_header(weight, options.scale_type);
  if (!header.ok()) return header.status();
  for (const Status& status : {memory::check_device(options.device), validate::pointer("qweight", weight.qweight, 1),
                               validate::pointer("scales", weight.scales, bytes_of(weight.scale_type)),
                               validate::pointer("storage", storage, memory::kAlignment)}) {
    if (!status.ok()) return status;
  }
  if (weight.zero_points != nullptr) {
    return Status(StatusCode::kInvalidArgument,
                  "zero_points must be null for u4b8, whose zero point is 8; quantise without them");
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
  const auto scale_bytes = static_cast<std::size_t>(weight.groups() * weight.n) * bytes_of(weight.scale_type);
  const auto source = OnCpu::get(weight.scales, scale_bytes, options.stream);
  if (!source.ok()) return source.status();
  const auto scales = convert_scales(weight, source->data(), options);
  if (!scales.ok()) return scales.status();

  const packing::Shape shape = shape_of(*header);
  Status status;
#if MACHETE_HAS_CUDA
  if (options.device.backend == Backend::kCuda) {
    status = pack_on_cuda(weight, *scales, shape, storage, options.device, options.stream);
  } else {
    status = pack_on_cpu(weight, *scales, shape, storage, options.stream);
  }
#else
  status = pack_on_cpu(weight, *scales, shape, storage, options.stream);
#endif
  if (!status.ok()) return status;
  return PackedWeight(*header, options.device, std::shared_ptr<const void>(storage, [](const void*) {}));
}

Result<PackedWeight> prepack(const QuantizedWeight& weight, const PrepackOptions& options) {
  const auto header = packed_header(weight, options.scale_type);
  if (!header.ok()) return header.status();
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
  if (device == weight.device()) return weight;
  const std::size_t bytes = weight.header().payload_bytes();
  const auto storage = memory::allocate(device, bytes);
  if (!storage.ok()) return storage.status();
  status = memory::copy(storage->get(), device, weight.weights(), weight.device(), bytes);
  if (!status.ok()) return status;
  return PackedWeight(weight.header(), device, *storage);
}

Result<UnpackedWeight> unpack(const PackedWeight& weight) {
  const auto on_cpu = copy_to(weight, Device::cpu());
  if (!on_cpu.ok()) return on_cpu.status();
  const packing::Shape shape = shape_of(weight.header());
  UnpackedWeight result;
  result.qweight.resize(static_cast<std::size_t>(shape.n * ((shape.k + 1) / 2)));
  result.scales.resize(static_cast<std::size_t>(shape.groups() * shape.n) * 2);
  packing::unpack_weights(static_cast<const std::uint8_t*>(on_cpu->weights()), shape, result.qweight.data());
  packing::unpack_scales(static_cast<const std::uint16_t*>(on_cpu->scales()), shape,
                         reinterpret_cast<std::uint16_t*>(result.scales.data()));
  return result;
}

}  // namespace machete
