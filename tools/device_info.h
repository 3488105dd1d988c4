#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace machete::tools {

struct GpuInfo {
  int ordinal = 0;
  std::string name;
  std::string capability;  // "9.0"
  int sms = 0;
  std::int64_t memory_bytes = 0;
  bool usable = false;  // this build's kernels run on it
};

/// What CUDA says about this machine; versions are empty and the list is where there is none.
struct CudaInfo {
  std::string toolkit;  // that the build was made with, "13.0"; empty without CUDA
  std::string runtime;
  std::string driver;  // the newest CUDA that the driver serves; empty without a driver
  std::string fault;   // why there are no GPUs
  std::vector<GpuInfo> gpus;
};
CudaInfo query_cuda();

struct CpuInfo {
  std::string name;
  int threads = 0;
};
CpuInfo query_cpu();

}  // namespace machete::tools
