#pragma once

#include <cstdint>

#include "machete/status.h"
#include "machete/types.h"

namespace machete {

/// Activations to 8 bits, token by token: a[M, K] -> codes[M, K] and token_scale[M], a ≈ code · token_scale.
struct TokenQuantization {
  std::int64_t m = 0;                    // tokens; 0 does nothing
  std::int64_t k = 0;                    // features, >= 1
  DataType a_type = DataType::kBf16;     // bf16 or f16
  DataType code_type = DataType::kE4m3;  // or s8: the a_type of the plan that multiplies the codes
  std::int64_t lda = 0;                  // elements between rows of a, >= k; 0 means k
  std::int64_t ldc = 0;                  // the same of codes
};

struct TokenOptions {
  Device device = default_device();
  // Programmatic dependent launch (CUDA): may start while the kernel ahead in the stream still runs, and waits before
  // it reads or writes anything; what follows with the same option may start early in turn.
  bool overlap = false;
};

/// For each token, with L = 127 for s8 and 448 for e4m3:
///
///   token_scale = max |a| / L    code = a · (L / max |a|), rounded to nearest even, within [-L, L]
///
/// (quotients rounded to fp32, and of tiny tokens 2^-126 and 2^126 in their place),
///
/// so that |a - code · token_scale| is at most half a unit of the code (and 2^-22 of its value). A token of zeros has
/// codes of 0. One that holds an Inf or a NaN has a scale of NaN and codes of 0: the whole row of a product that takes
/// the scale is NaN. The CPU and CUDA give the same bits.
///
/// All pointers lie on options.device, 16-byte aligned (CUDA) or element aligned; codes and scales overlap nothing.
/// Asynchronous on `stream` for CUDA; allocates nothing, safe under graph capture. Errors come before anything is
/// launched or written: sizes, strides, types and pointers that break their rule.
Status quantize_tokens(const TokenQuantization& what, const void* a /* [M, K] */, void* codes /* [M, K] */,
                       float* token_scale /* [M] */, const TokenOptions& options = {}, Stream stream = {});

}  // namespace machete
