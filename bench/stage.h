#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <vector>

#include "bench/arena.h"
#include "bench/rotation.h"
#include "bench/suite.h"
#include "machete/linear.h"
#include "machete/status.h"

namespace machete::bench {

/// All operands of one suite for one activation type and group size, on the device at once: its linears are timed one
/// by one and in turn on the same weights.
struct Stage {
  // Activations and outputs alternate lightly: in a model they come out of, and stay in, L2.
  static constexpr std::int64_t kSlots = 2;

  std::vector<RotatedWeight> weights;  // one a shape of the suite
  Rotation activations;                // [max M, max K] of a_type
  Rotation outputs;                    // [max M, max N] of a_type
  Arguments operands;                  // of an epilogue: what it reads beside A and W

  static Result<Stage> place(const Suite& suite, const RotatedWeight::Options& options, std::int64_t max_m,
                             const Epilogue& epilogue, Arena& arena);
  Status fill(DataType a_type, cudaStream_t stream);

 private:
  DataType scale_type_ = DataType::kBf16;
  std::int64_t max_n_ = 0;
  std::int64_t max_m_ = 0;
  std::int64_t max_k_ = 0;
};

}  // namespace machete::bench
