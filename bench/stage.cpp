#include "bench/stage.h"

#include <algorithm>
#include <utility>

#include "bench/cublas_baseline.h"
#include "testing/random.h"

namespace machete::bench {

Result<Stage> Stage::place(const Suite& suite, const RotatedWeight::Options& options, std::int64_t max_m,
                           const Epilogue& epilogue, Arena& arena) {
  Stage stage;
  for (const Shape& shape : suite.shapes) {
    Result<RotatedWeight> weight = RotatedWeight::place(shape, options, arena);
    if (!weight.ok()) return weight.status();
    stage.weights.push_back(std::move(*weight));
    stage.max_n_ = std::max(stage.max_n_, shape.n);
    stage.max_k_ = std::max(stage.max_k_, shape.k);
  }
  stage.max_m_ = max_m;
  const auto inputs = static_cast<std::size_t>(max_m * stage.max_k_);
  stage.activations = take_copies(arena, inputs * bytes_of(options.a_type), kSlots);
  const auto outputs = static_cast<std::size_t>(max_m * stage.max_n_);
  const std::size_t output_bytes =
      std::max(bytes_of(options.scale_type()), CublasBaseline::output_bytes(options.a_type));
  stage.outputs = take_copies(arena, outputs * output_bytes, kSlots);
  stage.scale_type_ = options.scale_type();
  const std::size_t element = bytes_of(stage.scale_type_);
  const auto tokens = static_cast<std::size_t>(max_m);
  const auto channels = static_cast<std::size_t>(stage.max_n_);
  if (epilogue.token_scale) stage.operands.token_scale = static_cast<float*>(arena.take(tokens * sizeof(float)));
  if (epilogue.channel_scale) stage.operands.channel_scale = static_cast<float*>(arena.take(channels * sizeof(float)));
  if (epilogue.bias) stage.operands.bias = arena.take(channels * element);
  if (epilogue.residual) stage.operands.residual = arena.take(outputs * element);
  if (epilogue.output_scale) stage.operands.output_scale = static_cast<float*>(arena.take(sizeof(float)));
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
  const struct {
    const void* numbers;
    DataType type;
    std::int64_t rows, columns;
  } parts[] = {{operands.token_scale, DataType::kF32, 1, max_m_},
               {operands.channel_scale, DataType::kF32, 1, max_n_},
               {operands.bias, scale_type_, 1, max_n_},
               {operands.residual, scale_type_, max_m_, max_n_},
               {operands.output_scale, DataType::kF32, 1, 1}};
  for (const auto& part : parts) {
    if (part.numbers == nullptr) continue;
    const Status status = testing::fill_activations(part.type, const_cast<void*>(part.numbers), part.rows, part.columns,
                                                    part.columns, testing::ActivationFill::kUniform, seed++, stream);
    if (!status.ok()) return status;
  }
  return {};
}

}  // namespace machete::bench
