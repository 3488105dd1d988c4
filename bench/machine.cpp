#include "bench/machine.h"

#include <cuda_runtime_api.h>
#include <fmt/format.h>

#include <array>
#include <ctime>
#include <fstream>

#include "testing/cuda_status.h"

namespace machete::bench {
namespace {

using testing::cuda_status;

std::string version_name(int version) { return fmt::format("{}.{}", version / 1000, version % 1000 / 10); }

// The kernel module's version; where that is hidden, the newest CUDA the driver serves.
Result<std::string> driver_name() {
  std::ifstream file("/sys/module/nvidia/version");
  std::string version;
  if (file >> version) return version;
  int cuda = 0;
  const Status status = cuda_status(cudaDriverGetVersion(&cuda), "cudaDriverGetVersion");
  if (!status.ok()) return status;
  return "for CUDA " + version_name(cuda);
}

}  // namespace

Result<DeviceFacts> select_device(int device) {
  int count = 0;
  Status status = cuda_status(cudaGetDeviceCount(&count), "timing needs a CUDA device");
  if (!status.ok()) return status;
  if (device < 0 || device >= count) {
    return Status(StatusCode::kInvalidArgument,
                  fmt::format("CUDA device {} does not exist; there are {}, counted from 0", device, count));
  }
  cudaDeviceProp properties{};
  status = cuda_status(cudaSetDevice(device), "cudaSetDevice");
  if (status.ok()) status = cuda_status(cudaGetDeviceProperties(&properties, device), "cudaGetDeviceProperties");
  int runtime = 0;
  if (status.ok()) status = cuda_status(cudaRuntimeGetVersion(&runtime), "cudaRuntimeGetVersion");
  if (!status.ok()) return status;
  const Result<std::string> driver = driver_name();
  if (!driver.ok()) return driver.status();

  DeviceFacts facts;
  facts.machine = {properties.name, properties.multiProcessorCount, *driver, version_name(runtime)};
  facts.l2_bytes = properties.l2CacheSize;
  return facts;
}

std::string today() {
  const std::time_t now = std::time(nullptr);
  std::tm utc{};
  std::array<char, 16> text{};
  if (gmtime_r(&now, &utc) == nullptr || std::strftime(text.data(), text.size(), "%Y-%m-%d", &utc) == 0) return "";
  return text.data();
}

}  // namespace machete::bench
