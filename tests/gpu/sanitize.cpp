#include <gtest/gtest.h>

#include <cstdint>
#include <string>
#include <utility>

#include "machete/tokens.h"
#include "tests/gpu/workbench.h"

// Small, but through every schedule, ragged at every edge: what compute-sanitizer runs (make sanitize).
namespace machete::tests {
namespace {

class Sanitize : public GpuTest {};

TEST_F(Sanitize, EverySchedule) {
  struct Shape {
    std::int64_t m;
    std::int64_t group_size;
  };
  for (const DataType type : kActivationTypes) {
    for (const auto& [m, group_size] : {Shape{2, 128}, Shape{7, 48}, Shape{70, 64}}) {  // decode needs 128
      Case c{make_problem(type, m, 140, 600, group_size)};
      c.seed = 8000 + static_cast<std::uint64_t>(m);
      for (const std::string& schedule : schedules_of(c.problem)) {
        c.schedule = schedule;
        EXPECT_TRUE(bench().try_case(c));
      }
    }
  }
}

TEST_F(Sanitize, OddStrides) {
  Case c{make_problem(DataType::kBf16, 19, 77, 333, 32)};
  c.problem.lda = 335;
  c.problem.ldd = 79;
  EXPECT_TRUE(bench().try_case(c));
}

// Groups that end within a stage, groups of stages that shares of K cut, and one group.
TEST_F(Sanitize, EveryScheduleOfEightBits) {
  const Pair pairs[] = {{WeightType::kU4b8, DataType::kS8},
                        {WeightType::kU8b128, DataType::kS8},
                        {WeightType::kU4b8, DataType::kE4m3},
                        {WeightType::kE4m3, DataType::kE4m3},
                        {WeightType::kE2m1, DataType::kE4m3},
                        {WeightType::kU4b8, DataType::kS8, DataType::kF16},
                        {WeightType::kE4m3, DataType::kE4m3, DataType::kF16}};
  for (const Pair& pair : pairs) {
    if (!served(pair)) continue;
    for (const auto& [m, group_size] : {std::pair{3, 96}, std::pair{70, 256}, std::pair{140, -1}}) {
      Case c{make_problem(pair, m, 140, 600, group_size)};
      c.seed = 8100 + static_cast<std::uint64_t>(m);
      for (const std::string& schedule : schedules_of(c.problem)) {
        c.schedule = schedule;
        EXPECT_TRUE(bench().try_case(c));
      }
    }
  }
}

// Rows of so many vectors a thread as there are kernels for, and rows that start anywhere.
TEST_F(Sanitize, QuantizeTokens) {
  testing::DeviceBuffer a(testing::DeviceBuffer::Guard::kZones);
  testing::DeviceBuffer codes(testing::DeviceBuffer::Guard::kZones);
  testing::DeviceBuffer scales(testing::DeviceBuffer::Guard::kZones);
  TokenOptions options;
  options.device = Device::cuda();
  for (const DataType a_type : kActivationTypes) {
    for (const DataType code_type : {DataType::kS8, DataType::kE4m3}) {
      for (const std::int64_t k : {13, 600, 3000, 7000, 12000, 17000}) {
        TokenQuantization what;
        what.m = 3;
        what.k = k;
        what.a_type = a_type;
        what.code_type = code_type;
        require(a.resize(static_cast<std::size_t>(what.m * k) * 2));
        require(codes.resize(static_cast<std::size_t>(what.m * k)));
        require(scales.resize(static_cast<std::size_t>(what.m) * 4));
        require(testing::fill_activations(a_type, a.data(), what.m, k, k, testing::ActivationFill::kNormal, 8200,
                                          bench().stream()));
        require(quantize_tokens(what, a.data(), codes.data(), scales.as<float>(), options, Stream(bench().stream())));
        require(cudaStreamSynchronize(bench().stream()), "quantise");
        for (const testing::DeviceBuffer* buffer : {&a, &codes, &scales}) {
          EXPECT_TRUE(require(buffer->guards_intact())) << "K=" << k;
        }
      }
    }
  }
}

}  // namespace
}  // namespace machete::tests
