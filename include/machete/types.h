#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

#include "machete/status.h"
#include "machete/weight_type.h"  // generated: the types of instances/manifest.txt

namespace machete {

/// Types of activations, scales, zero points and outputs. The values are part of the PackedWeight file format.
enum class DataType : std::uint8_t {
  kF16 = 0,
  kBf16 = 1,
  kF32 = 2,
  kU8 = 3,    // integer zero points
  kE4m3 = 4,  // activations; outputs; scales of NVFP4
  kE8m0 = 5,  // scales of MXFP4: 2^(e - 127), 255 is NaN
  kS8 = 6,    // activations
};

enum class Backend : std::uint8_t { kCpu, kCuda };

/// Where memory lies and work runs.
struct Device {
  Backend backend = Backend::kCpu;
  int ordinal = 0;  // the CUDA device; 0 on the CPU

  static Device cpu() { return {Backend::kCpu, 0}; }
  static Device cuda(int ordinal = 0) { return {Backend::kCuda, ordinal}; }

  friend bool operator==(Device a, Device b) { return a.backend == b.backend && a.ordinal == b.ordinal; }
  friend bool operator!=(Device a, Device b) { return !(a == b); }
};

/// A cudaStream_t without its header. The default is the legacy default stream; the CPU backend ignores it.
struct Stream {
  void* native = nullptr;
  Stream() = default;
  Stream(void* stream) : native(stream) {}  // NOLINT(google-explicit-constructor)
};

std::size_t bytes_of(DataType type);
int bits_of(DataType type);
int bits_of(WeightType type);
bool has_zero_points(WeightType type);
std::vector<WeightType> weight_types();  // all there are

/// The names used everywhere, in C++, Python, the command line and JSON: "f16", "bf16", "f32", "u8", "e4m3", "e8m0",
/// "s8"; "u4b8", "u4" and so on, as WeightType has them; "cpu", "cuda".
std::string_view name_of(DataType type);
std::string_view name_of(WeightType type);
std::string_view name_of(Backend backend);

/// The inverses; the error lists what exists. "fp16", "float16", "bfloat16", "fp32" and "float32" are understood too.
Result<DataType> parse_data_type(std::string_view name);
Result<WeightType> parse_weight_type(std::string_view name);

/// The best device at hand: the first Hopper GPU this build has kernels for, else the CPU.
Device default_device();

}  // namespace machete
