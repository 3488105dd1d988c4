#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "machete/status.h"

namespace machete::formats {

/// What JSON beside a checkpoint says of its quantisation. Empty: nothing.
struct QuantizationConfig {
  /// How some of the layers are quantised.
  struct Scheme {
    std::int64_t bits = 0;
    std::int64_t group_size = 0;  // -1: a row; 0: not told
  };

  std::string file;                      // the first that says something
  std::string method;                    // quant_method: "gptq", "awq", "compressed-tensors", "fp8", ...
  std::string checkpoint_format;         // of GPTQ: "gptq" or "gptq_v2"
  std::string version;                   // of AWQ: "gemm", "gemv", ..., in small letters
  std::string format;                    // of compressed-tensors: "pack-quantized", ..., "mixed-precision"
  std::vector<Scheme> schemes;           // each layer has one of them; none: not told, or different from layer to layer
  std::vector<std::int64_t> block_size;  // weight_block_size of fp8
};

/// Adds what one of the files below says where those before it said nothing; `name` is its name without a folder.
Status add_config(const std::string& name, std::string_view text, QuantizationConfig& config);

/// From quantize_config.json (GPTQ), quant_config.json (AutoAWQ before it wrote the next) and config.json in the
/// folder; where they differ the first has its way. None need be there. Errors: JSON that is none, or that holds
/// something of another type for these.
Result<QuantizationConfig> read_config(const std::string& folder);

}  // namespace machete::formats
