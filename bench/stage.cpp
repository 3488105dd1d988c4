#include "bench/stage.h"

#include <algorithm>
#include <utility>

#include "bench/cublas_baseline.h"
#include "testing/random.h"

namespace machete::bench {

Result<Stage> Stage::place(const Suite& suite, const RotatedWeight::Options& options, std::int64_t max_m,
                           Arena& arena) {
  Stage stage;
  std::int64_t max_n = 0;
  for (const Shape& shape : suite.shapes) {
    Result<RotatedWeight> weight = RotatedWeight::place(shape, options, arena);
    if (!weight.ok()) return weight.status();
    stage.weights.push_back(std::move(*weight));
    max_n = std::max(max_n, shape.n);
    stage.max_k_ = std::max(stage.max_k_, shape.k);
  }
  stage.max_m_ = max_m;
  const auto inputs = static_cast<std::size_t>(max_m * stage.max_k_);
  stage.activations = take_copies(arena, inputs * bytes_of(options.a_type), kSlots);
  const auto outputs = static_cast<std::size_t>(max_m * max_n);
  const std::size_t output_bytes =
      std::max(bytes_of(options.scale_type()), CublasBaseline::output_bytes(options.a_type));
  stage.outputs = take_copies(arena, outputs * output_bytes, kSlots);
  return stage;
}

Status Stage::fill(DataType a_type, cudaStream_t stream) {
  std::uint64_t seed = 1;
  for (RotatedWeight& weight : weights) {
    if (Status status = weight.fill(seed, stream); !status.ok()) return status;
    seed += 2;  // one for the nibbles, one for the scales
  }
  for (void* slot : activations.copies) {
    // Each shape reads its M and K off the front: noise stays noise under any row length.
    const Status status = testing::fill_activations(a_type, slot, max_m_, max_k_, max_k_,
                                                    testing::ActivationFill::kNormal, seed++, stream);
    if (!status.ok()) return status;
  }
  return {};
}

}  // namespace machete::bench
