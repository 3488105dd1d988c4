#pragma once

#include <cstddef>
#include <memory>
#include <string>

#include "machete/status.h"
#include "machete/types.h"

/// The only place of the library's host code that talks to the CUDA runtime about devices and memory; without CUDA
/// there is the CPU alone.
namespace machete::memory {

inline constexpr std::size_t kAlignment = 128;
constexpr std::size_t padded(std::size_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

/// The first device of compute capability 9.0 that kernels are compiled for; else the CPU.
Device first_hopper();

/// Whether plans can be made for the device.
Status check_device(Device device);

struct Gpu {
  std::string name;
  int sms = 0;
};
Result<Gpu> describe(int ordinal);

/// Registers a thread of a kernel, as compiled; 0 where no device is at hand to ask.
int registers_of(const void* kernel);

/// kAlignment-aligned memory.
Result<std::shared_ptr<void>> allocate(Device device, std::size_t bytes);

/// Where a pointer points: for CUDA memory its device, else the CPU.
Result<Device> device_of(const void* pointer);

/// Copies, and returns when that is done. For CUDA on `stream`, after what is queued there.
Status copy(void* to, Device to_device, const void* from, Device from_device, std::size_t bytes, Stream stream = {});

Status synchronize(Device device, Stream stream);

/// A cudaError_t, with what was attempted.
Status cuda_status(int error, const char* attempt);

/// The driver's cuTensorMapEncodeTiled.
Result<void*> tensor_map_encoder();

/// Makes a CUDA device the current one, and restores the caller's.
class CurrentDevice {
 public:
  explicit CurrentDevice(Device device);
  ~CurrentDevice();
  CurrentDevice(const CurrentDevice&) = delete;
  CurrentDevice& operator=(const CurrentDevice&) = delete;

 private:
  int previous_ = -1;
};

}  // namespace machete::memory
