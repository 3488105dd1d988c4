#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "machete/status.h"

namespace machete::bench {

struct TokenBenchOptions {
  std::vector<std::int64_t> ms;  // tokens, each >= 1; empty: 1, 16, 256, 1024, 4096, 8192
  std::string json_path;         // where the results go; empty: nowhere
  int device = 0;                // the CUDA device
  std::string commit;            // recorded with the results
};

/// Times quantize_tokens from bf16, with activations rotated past L2, beside the time that their bytes, read and
/// written, take at the rate of the read-only stream: a table to stdout, and JSON.
Status run_token_bench(const TokenBenchOptions& options);

}  // namespace machete::bench
