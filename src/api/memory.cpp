#include "api/memory.h"

#include <cstdlib>
#include <cstring>
#include <string>

#include "registry/registry.h"

#if MACHETE_HAS_CUDA
#include <cuda_runtime_api.h>

#include <map>
#include <mutex>
#endif

namespace machete::memory {
namespace {

Result<std::shared_ptr<void>> allocate_on_cpu(std::size_t bytes) {
  const std::size_t rounded = (bytes + kAlignment) / kAlignment * kAlignment;  // never zero
  void* pointer = std::aligned_alloc(kAlignment, rounded);
  if (pointer == nullptr) {
    return Status(StatusCode::kOutOfMemory, "cannot allocate " + std::to_string(rounded) + " bytes of CPU memory");
  }
  return std::shared_ptr<void>(pointer, [](void* p) { std::free(p); });
}

}  // namespace

#if MACHETE_HAS_CUDA

Status cuda_status(int error, const char* attempt) {
  const auto code = static_cast<cudaError_t>(error);
  if (code == cudaSuccess) return {};
  return {code == cudaErrorMemoryAllocation ? StatusCode::kOutOfMemory : StatusCode::kDevice,
          std::string(attempt) + ": " + cudaGetErrorName(code) + ", " + cudaGetErrorString(code)};
}

Device first_hopper() {
  int count = 0;
  if (registry::all().empty() || cudaGetDeviceCount(&count) != cudaSuccess) {
    static_cast<void>(cudaGetLastError());  // "no device" is an answer, not an error to leave behind
    return Device::cpu();
  }
  for (int i = 0; i < count; ++i) {
    if (check_device(Device::cuda(i)).ok()) return Device::cuda(i);
  }
  return Device::cpu();
}

Status check_device(Device device) {
  if (device.backend == Backend::kCpu) {
    if (device.ordinal == 0) return {};
    return {StatusCode::kInvalidArgument,
            "CPU device " + std::to_string(device.ordinal) + " must be 0; use Device::cpu()"};
  }
  int count = 0;
  if (cudaGetDeviceCount(&count) != cudaSuccess) {
    static_cast<void>(cudaGetLastError());
    count = 0;
  }
  const std::string name = "CUDA device " + std::to_string(device.ordinal);
  if (device.ordinal < 0 || device.ordinal >= count) {
    return {StatusCode::kInvalidArgument,
            name + " does not exist, there are " + std::to_string(count) + "; use one of those or Device::cpu()"};
  }
  int major = 0;
  int minor = 0;
  Status status = cuda_status(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device.ordinal),
                              "reading attributes");
  if (!status.ok()) return status;
  status = cuda_status(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device.ordinal),
                       "reading attributes");
  if (!status.ok()) return status;
  if (major == 9 && minor == 0) return {};
  return {StatusCode::kUnsupported, name + " has compute capability " + std::to_string(major) + "." +
                                        std::to_string(minor) +
                                        "; the kernels need 9.0 (H100, H200); use Device::cpu()"};
}

Result<Gpu> describe(int ordinal) {
  cudaDeviceProp properties = {};  // slow to ask for, and never changing
  static std::mutex mutex;
  static std::map<int, Gpu> known;
  const std::lock_guard<std::mutex> lock(mutex);
  const auto found = known.find(ordinal);
  if (found != known.end()) return found->second;
  const Status status = cuda_status(cudaGetDeviceProperties(&properties, ordinal), "reading device properties");
  if (!status.ok()) return status;
  return known[ordinal] = {properties.name, properties.multiProcessorCount};
}

int registers_of(const void* kernel) {
  cudaFuncAttributes attributes = {};
  if (cudaFuncGetAttributes(&attributes, kernel) == cudaSuccess) return attributes.numRegs;
  static_cast<void>(cudaGetLastError());
  return 0;
}

Result<std::shared_ptr<void>> allocate(Device device, std::size_t bytes) {
  if (device.backend == Backend::kCpu) return allocate_on_cpu(bytes);
  const CurrentDevice current(device);
  void* pointer = nullptr;
  const std::string attempt = "allocating " + std::to_string(bytes) + " bytes";
  const Status status = cuda_status(cudaMalloc(&pointer, bytes == 0 ? 1 : bytes), attempt.c_str());
  if (!status.ok()) return status;
  return std::shared_ptr<void>(pointer, [device](void* p) {
    const CurrentDevice owner(device);
    static_cast<void>(cudaFree(p));
  });
}

Result<Device> device_of(const void* pointer) {
  cudaPointerAttributes attributes = {};
  const cudaError_t error = cudaPointerGetAttributes(&attributes, pointer);
  if (error == cudaErrorNoDevice || error == cudaErrorInsufficientDriver) {
    static_cast<void>(cudaGetLastError());
    return Device::cpu();
  }
  const Status status = cuda_status(error, "looking up a pointer");
  if (!status.ok()) return status;
  const bool on_device = attributes.type == cudaMemoryTypeDevice || attributes.type == cudaMemoryTypeManaged;
  return on_device ? Device::cuda(attributes.device) : Device::cpu();
}

Status copy(void* to, Device to_device, const void* from, Device from_device, std::size_t bytes, Stream stream) {
  if (to_device.backend == Backend::kCpu && from_device.backend == Backend::kCpu) {
    std::memcpy(to, from, bytes);
    return {};
  }
  const CurrentDevice current(to_device.backend == Backend::kCuda ? to_device : from_device);
  auto* const native = static_cast<cudaStream_t>(stream.native);
  const Status status = cuda_status(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, native), "copying");
  return status.ok() ? cuda_status(cudaStreamSynchronize(native), "copying") : status;
}

Status synchronize(Device device, Stream stream) {
  if (device.backend == Backend::kCpu) return {};
  const CurrentDevice current(device);
  return cuda_status(cudaStreamSynchronize(static_cast<cudaStream_t>(stream.native)), "waiting for a stream");
}

Result<void*> tensor_map_encoder() {
  void* function = nullptr;
  cudaDriverEntryPointQueryResult found = cudaDriverEntryPointSymbolNotFound;
  const Status status = cuda_status(
      cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000, cudaEnableDefault, &found),
      "looking up TMA");
  if (!status.ok()) return status;
  if (found != cudaDriverEntryPointSuccess || function == nullptr) {
    return Status(StatusCode::kUnsupported,
                  "the driver lacks cuTensorMapEncodeTiled; update it to one for CUDA 12 or newer");
  }
  return function;
}

CurrentDevice::CurrentDevice(Device device) {
  if (device.backend == Backend::kCpu) return;
  int current = 0;
  if (cudaGetDevice(&current) == cudaSuccess && current != device.ordinal &&
      cudaSetDevice(device.ordinal) == cudaSuccess) {
    previous_ = current;
  }
}

CurrentDevice::~CurrentDevice() {
  if (previous_ >= 0) static_cast<void>(cudaSetDevice(previous_));
}

#else

namespace {
Status no_cuda() {
  return {StatusCode::kUnsupported, "this build has no CUDA backend; build with nvcc, or use Device::cpu()"};
}
}  // namespace

Status cuda_status(int, const char*) { return no_cuda(); }
Device first_hopper() { return Device::cpu(); }
Status check_device(Device device) {
  if (device.backend == Backend::kCuda) return no_cuda();
  if (device.ordinal == 0) return {};
  return {StatusCode::kInvalidArgument,
          "CPU device " + std::to_string(device.ordinal) + " must be 0; use Device::cpu()"};
}
Result<Gpu> describe(int) { return no_cuda(); }
int registers_of(const void*) { return 0; }
Result<std::shared_ptr<void>> allocate(Device device, std::size_t bytes) {
  if (device.backend == Backend::kCuda) return no_cuda();
  return allocate_on_cpu(bytes);
}
Result<Device> device_of(const void*) { return Device::cpu(); }
Status copy(void* to, Device to_device, const void* from, Device from_device, std::size_t bytes, Stream) {
  if (to_device.backend == Backend::kCuda || from_device.backend == Backend::kCuda) return no_cuda();
  std::memcpy(to, from, bytes);
  return {};
}
Status synchronize(Device, Stream) { return {}; }
Result<void*> tensor_map_encoder() { return no_cuda(); }
CurrentDevice::CurrentDevice(Device) {}
CurrentDevice::~CurrentDevice() = default;

#endif

}  // namespace machete::memory
