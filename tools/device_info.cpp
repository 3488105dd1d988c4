#include "device_info.h"

#include <fmt/format.h>

#include <fstream>
#include <thread>

#if defined(MACHETE_HAS_CUDA)
#include <cuda_runtime_api.h>
#endif

namespace machete::tools {

#if defined(MACHETE_HAS_CUDA)

namespace {

std::string version_text(int version) { return fmt::format("{}.{}", version / 1000, version % 1000 / 10); }

}  // namespace

CudaInfo query_cuda() {
  CudaInfo info;
  info.toolkit = version_text(CUDART_VERSION);
  int version = 0;
  if (cudaRuntimeGetVersion(&version) == cudaSuccess) info.runtime = version_text(version);
  if (cudaDriverGetVersion(&version) == cudaSuccess && version != 0) info.driver = version_text(version);
  int count = 0;
  if (const cudaError_t error = cudaGetDeviceCount(&count); error != cudaSuccess) {
    info.fault = cudaGetErrorString(error);
    static_cast<void>(cudaGetLastError());
    return info;
  }
  for (int ordinal = 0; ordinal < count; ++ordinal) {
    cudaDeviceProp properties = {};
    if (cudaGetDeviceProperties(&properties, ordinal) != cudaSuccess) continue;
    GpuInfo gpu;
    gpu.ordinal = ordinal;
    gpu.name = properties.name;
    gpu.capability = fmt::format("{}.{}", properties.major, properties.minor);
    gpu.sms = properties.multiProcessorCount;
    gpu.memory_bytes = static_cast<std::int64_t>(properties.totalGlobalMem);
    gpu.usable = properties.major == 9 && properties.minor == 0;
    info.gpus.push_back(gpu);
  }
  return info;
}

#else

CudaInfo query_cuda() {
  CudaInfo info;
  info.fault = "built without CUDA";
  return info;
}

#endif

CpuInfo query_cpu() {
  CpuInfo info;
  info.threads = static_cast<int>(std::thread::hardware_concurrency());
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    const std::size_t colon = line.find(": ");
    if (line.rfind("model name", 0) != 0 || colon == std::string::npos) continue;
    info.name = line.substr(colon + 2);
    break;
  }
  return info;
}

}  // namespace machete::tools
