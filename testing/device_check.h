#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <vector>

#include "machete/problem.h"
#include "machete/status.h"
#include "machete/weight.h"
#include "reference/bound.h"
#include "testing/device_buffer.h"

namespace machete::testing {

struct CheckOptions {
  std::int64_t max_rows = 0;  // check so many rows of D, spread evenly with both ends; 0: all
  cudaStream_t stream = nullptr;
};

/// An ErrorReport, and whether the check itself could run; if not, the report has not passed.
struct DeviceErrorReport : reference::ErrorReport {
  Status status;
};

/// Compares D with the fp64 product of exactly the given numbers, everything in memory of the current device. Waits for
/// the stream. Keeps its scratch memory from check to check: for many checks, keep the object.
class DeviceCheck {
 public:
  /// Against the bounds of reference/bound.h. A NaN, or an Inf where none is due, exceeds every bound.
  DeviceErrorReport within_bounds(const Problem& problem, const void* a, const QuantizedWeight& weight, const void* d,
                                  const CheckOptions& options = {});

  /// D must be the fp64 product rounded once to its type, to the bit save for the sign of zero: what data whose sums
  /// are exact in fp32 must give. max_ratio is 0, or infinite for a mismatch.
  DeviceErrorReport exact(const Problem& problem, const void* a, const QuantizedWeight& weight, const void* d,
                          const CheckOptions& options = {});

 private:
  DeviceErrorReport check(const Problem& problem, const void* a, const QuantizedWeight& weight, const void* d,
                          const CheckOptions& options, bool exact);

  DeviceBuffer partials_;
};

/// reference::check_linear with everything in device memory.
DeviceErrorReport check_linear_on_device(const Problem& problem, const void* a, const QuantizedWeight& weight,
                                         const void* d, const CheckOptions& options = {});

/// Of a poisoned D [M, N], rows ldd apart: how many of the bytes between its rows are not 0xFF any more. Waits for the
/// stream.
Result<std::int64_t> count_overwritten_padding(DataType type, const void* d, std::int64_t m, std::int64_t n,
                                               std::int64_t ldd, cudaStream_t stream = nullptr);

}  // namespace machete::testing
