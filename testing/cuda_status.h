#pragma once

#include <cuda_runtime_api.h>

#include <string>

#include "machete/status.h"

namespace machete::testing {

/// A CUDA return code as a Status: what was attempted, and the runtime's own words.
inline Status cuda_status(cudaError_t error, const char* attempt) {
  if (error == cudaSuccess) return {};
  const StatusCode code = error == cudaErrorMemoryAllocation ? StatusCode::kOutOfMemory : StatusCode::kDevice;
  return {code, std::string(attempt) + ": " + cudaGetErrorName(error) + ", " + cudaGetErrorString(error)};
}

/// The outcome of the launches since the last look; takes a non-sticky error off the runtime.
inline Status launch_status(const char* attempt) { return cuda_status(cudaGetLastError(), attempt); }

}  // namespace machete::testing
