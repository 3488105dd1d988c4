#pragma once

#include <cstdint>
#include <string>

#include "bench/report.h"
#include "machete/status.h"

namespace machete::bench {

/// Makes `device` current and says what it is.
struct DeviceFacts {
  Machine machine;
  std::int64_t l2_bytes = 0;
};
Result<DeviceFacts> select_device(int device);

std::string today();  // yyyy-mm-dd, UTC

}  // namespace machete::bench
