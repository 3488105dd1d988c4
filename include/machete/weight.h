#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "machete/types.h"

namespace machete {

/// A quantised weight in canonical form, borrowed. Everything lies on one device, aligned to its element.
struct QuantizedWeight {
  WeightType type = WeightType::kU4b8;
  std::int64_t n = 0;
  std::int64_t k = 0;
  std::int64_t group_size = 128;             // a multiple of 16, or -1; the last group may be partial
  const void* qweight = nullptr;             // [N, row_bytes()]: 4 bits an element, even k in the low nibble, or 8
  const void* scales = nullptr;              // [ceil(K/group_size), N] of scale_type, finite
  DataType scale_type = DataType::kBf16;     // or f16, f32, e4m3, e8m0
  float tensor_scale = 1;                    // times every scale: NVFP4's global one; finite
  const void* zero_points = nullptr;         // [ceil(K/group_size), N] of zero_point_type; null for types without
  DataType zero_point_type = DataType::kU8;  // or of floating point, finite

  // [K]: the group of each k, where it is not k / group_size (GPTQ's act-order); each group as often as its size. On
  // the CPU or with the others.
  const std::int32_t* g_idx = nullptr;

  std::int64_t groups() const { return group_size > 0 ? (k + group_size - 1) / group_size : 1; }
  std::int64_t row_bytes() const { return (k * bits_of(type) + 7) / 8; }
};

/// What a PackedWeight is; the first 128 bytes of its file. Little-endian, no pointers.
struct PackedHeader {
  static constexpr char kMagic[8] = {'M', 'A', 'C', 'H', 'E', 'T', 'E', 'W'};
  static constexpr std::uint32_t kVersion = 3;  // of the packed order; a weight of another version is refused

  char magic[8] = {'M', 'A', 'C', 'H', 'E', 'T', 'E', 'W'};
  std::uint32_t version = kVersion;
  WeightType type = WeightType::kU4b8;
  DataType scale_type = DataType::kBf16;      // equals Problem::scale_type() of the plans that may use it
  std::uint8_t activation_bits = 16;          // the MMA operand width that the order is derived from
  DataType zero_point_type = DataType::kF16;  // of the canonical form; packed ones are of scale_type
  std::int64_t n = 0;
  std::int64_t k = 0;
  std::int64_t group_size = 0;
  std::uint64_t weight_bytes = 0;  // the packed weights come first ...
  std::uint64_t scale_bytes = 0;   // ... the packed scales follow ...
  std::uint64_t checksum = 0;      // of the payload, set by save()
  std::uint64_t zero_bytes = 0;    // ... and the packed zero points, where the type has them
  std::uint8_t swiglu = 0;         // 1: the rows of [gate; up] alternate, eight of each, for that epilogue
  std::uint8_t reserved0[3] = {};
  float tensor_scale = 0;               // 0, as in older files, means 1
  std::uint64_t permutation_bytes = 0;  // last, the order of K, where it was changed to bring groups together
  std::uint8_t reserved[40] = {};

  std::uint64_t payload_bytes() const { return weight_bytes + scale_bytes + zero_bytes + permutation_bytes; }
};
static_assert(sizeof(PackedHeader) == 128, "the header is part of the file format");

/// A weight in the order the kernels read, on one device. One PackedWeight serves every M and every schedule.
/// Copies share the payload, which is never written after prepack.
class PackedWeight {
 public:
  PackedWeight() = default;
  PackedWeight(PackedHeader header, Device device, std::shared_ptr<const void> payload)
      : header_(header), device_(device), payload_(std::move(payload)) {}

  const PackedHeader& header() const { return header_; }
  Device device() const { return device_; }
  const void* weights() const { return payload_.get(); }  // 128-byte aligned
  const void* scales() const { return static_cast<const char*>(payload_.get()) + header_.weight_bytes; }
  const void* zero_points() const {  // null for types without
    return header_.zero_bytes == 0 ? nullptr : static_cast<const char*>(scales()) + header_.scale_bytes;
  }
  const std::int32_t* permutation() const {  // [K]: which k of A meets each packed one; null: its own
    const char* at = static_cast<const char*>(scales()) + header_.scale_bytes + header_.zero_bytes;
    return header_.permutation_bytes == 0 ? nullptr : reinterpret_cast<const std::int32_t*>(at);
  }

 private:
  PackedHeader header_;
  Device device_;
  std::shared_ptr<const void> payload_;
};

struct PrepackOptions {
  Device device = default_device();       // where the weight shall lie; its parts may lie on the CPU or there
  DataType scale_type = DataType::kBf16;  // Problem::scale_type(): with 16-bit activations, their type
  bool round_scales =
      false;            // scales and zero points that scale_type cannot hold: round to nearest, or (default) refuse
  bool swiglu = false;  // the weight is [gate; up], N even, and will meet the epilogue swiglu
  int activation_bits = 16;  // of those that the weight will meet: 16 or 8, each an order of its own
  Stream stream = {};        // prepack returns when its work on the stream is done
};

/// The header `prepack` would produce, hence the bytes it needs. Errors: sizes < 1 or overflowing, group sizes other
/// than -1 or a positive multiple of 16, odd N with swiglu, weight types that no activations of that width meet.
Result<PackedHeader> packed_header(const QuantizedWeight& weight, DataType scale_type, bool swiglu = false,
                                   int activation_bits = 16);

/// Puts a weight into packed order, padding N and K once; with g_idx, K is sorted by group, and a run gathers the
/// activations to match. Refuses null or misaligned pointers, NaN and Inf in scales and zero points, such as change in
/// scale_type (unless round_scales), and scales of bf16 from 2^19 on, which kernels fold into the decode (of every type
/// but u4, u8 and e2m1), before anything is written; for CUDA also weight types that no kernel there serves. The CPU
/// and CUDA give identical bytes.
Result<PackedWeight> prepack(const QuantizedWeight& weight, const PrepackOptions& options = {});

/// The same into `storage`, owned by the caller: payload_bytes() of memory on options.device, 128-byte aligned.
Result<PackedWeight> prepack_into(const QuantizedWeight& weight, const PrepackOptions& options, void* storage,
                                  std::size_t bytes);

/// The canonical form again, bit for bit, on the CPU.
struct UnpackedWeight {
  std::vector<std::uint8_t> qweight;         // [N, row_bytes()]
  std::vector<std::uint8_t> scales;          // [ceil(K/group_size), N] of header.scale_type
  std::vector<std::uint8_t> zero_points;     // [ceil(K/group_size), N] of zero_point_type; empty for types without
  DataType zero_point_type = DataType::kU8;  // or header.scale_type
  std::vector<std::int32_t> g_idx;           // [K]; empty where it was, or said nothing new
};
Result<UnpackedWeight> unpack(const PackedWeight& weight);

/// A copy of the weight on `device`.
Result<PackedWeight> copy_to(const PackedWeight& weight, Device device);

/// Writes header and payload to `path`, all or nothing; reads them back. Errors: unreadable, truncated or foreign
/// files, other versions.
Status save(const PackedWeight& weight, const std::string& path);
Result<PackedWeight> load(const std::string& path, Device device = default_device());

}  // namespace machete
