#pragma once

#include <string>

#include "machete/status.h"

namespace machete::formats {

/// What JSON beside a checkpoint says of its quantisation where the tensors do not show it. Empty: nothing.
struct QuantizationConfig {
  std::string method;             // quant_method: "gptq", "awq", ...
  std::string checkpoint_format;  // of GPTQ: "gptq" or "gptq_v2"
  std::string version;            // of AWQ: "gemm", "gemv", ...
};

/// From quantize_config.json and config.json in the folder; where they differ the first has its way. Neither need be
/// there. Errors: JSON that is none, or that holds something else than strings for these.
Result<QuantizationConfig> read_config(const std::string& folder);

}  // namespace machete::formats
