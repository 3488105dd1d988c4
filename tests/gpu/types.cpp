#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include <cstring>
#include <string>
#include <vector>

#include "tests/gpu/coverage.h"
#include "tests/gpu/workbench.h"

// Weight types beside u4b8, in whatever kernels this build has for them.
namespace machete::tests {
namespace {

using Check = Workbench::Check;

struct Pair {
  WeightType w_type;
  DataType a_type;
};

bool served(const Pair& pair) {
  Problem problem = make_problem(pair.a_type, 1, 64, 64);
  problem.w_type = pair.w_type;
  const auto choices = list_schedules(problem, on_cuda());  // an error where no activations of the type meet the weight
  return choices.ok() && !choices->empty();
}

// The pairs of types that have kernels, but for u4b8 with 16-bit activations, which the other tests are about.
std::vector<Pair> served_pairs() {
  std::vector<Pair> pairs;
  for (const WeightType w_type : weight_types()) {
    for (const DataType a_type : {DataType::kBf16, DataType::kF16, DataType::kS8, DataType::kE4m3}) {
      const bool others = w_type == WeightType::kU4b8 && bits_of(a_type) == 16;
      if (!others && served({w_type, a_type})) pairs.push_back({w_type, a_type});
    }
  }
  return pairs;
}

Case case_of(const Pair& pair, std::int64_t m, std::int64_t n, std::int64_t k, std::int64_t group_size) {
  Case c{make_problem(pair.a_type, m, n, k, group_size)};
  c.problem.w_type = pair.w_type;
  return c;
}

class Types : public GpuTest {
 protected:
  void try_every_schedule(Case c, Check check = Check::kBounds) {
    // A step of the 8-bit MMA is 32 k, which must lie in one group.
    if (bits_of(c.problem.a_type) == 8 && c.problem.group_size > 0 && c.problem.group_size % 32 != 0) return;
    for (const std::string& schedule : schedules_of(c.problem)) {
      c.schedule = schedule;
      EXPECT_TRUE(bench().try_case(c, check));
      coverage_.add(c.problem, schedule);
    }
  }

  Coverage coverage_;
};

TEST_F(Types, AreServed) {
  for (const WeightType w_type :
       {WeightType::kU4, WeightType::kS4, WeightType::kU8b128, WeightType::kS8, WeightType::kE4m3, WeightType::kE2m1}) {
    EXPECT_TRUE(served({w_type, DataType::kBf16})) << name_of(w_type);
  }
  for (const WeightType w_type : {WeightType::kU4b8, WeightType::kS4, WeightType::kU8b128, WeightType::kS8}) {
    EXPECT_TRUE(served({w_type, DataType::kS8})) << name_of(w_type);
  }
  for (const WeightType w_type : {WeightType::kU4b8, WeightType::kS4, WeightType::kE4m3}) {
    EXPECT_TRUE(served({w_type, DataType::kE4m3})) << name_of(w_type);
  }
}

// A = I: D holds the dequantised weights, rounded once; so every code that the weight has is decoded to the bit.
TEST_F(Types, IdentityActivationsGiveDequantisedWeights) {
  struct Weight {
    std::int64_t n, k, group_size;
  };
  const Weight weights[] = {{192, 576, 64},   {129, 1000, 48}, {64, 512, 16},  {200, 768, 32},
                            {256, 2048, 128}, {96, 960, 96},   {33, 1100, -1}, {7, 77, 16}};
  for (const Pair& pair : served_pairs()) {
    for (const Weight& w : weights) {
      for (const std::int64_t rows : {w.k, std::int64_t{40}, std::int64_t{8}}) {
        Case c = case_of(pair, rows, w.n, w.k, w.group_size);
        c.identity_from = rows < w.k ? (w.k - rows) / 2 | 1 : 0;
        try_every_schedule(c, Check::kExact);
      }
    }
  }
}

// Integers -2 ... 2 and scales of 1/2, 1 and 2: sums are exact in fp32 but for e4m3, whose values span 2^18 and keep to
// their bounds.
TEST_F(Types, SmallIntegersThroughEverySchedule) {
  struct Shape {
    std::int64_t n, k, group_size;
  };
  const Shape shapes[] = {{384, 1536, 128}, {576, 4112, 16}, {1000, 1000, 48}, {2048, 4096, 128}, {256, 4096, -1}};
  std::uint64_t seed = 100;
  for (const Pair& pair : served_pairs()) {
    for (const Shape& shape : shapes) {
      for (const std::int64_t m : {1, 7, 8, 16, 33, 64, 100, 200, 520}) {
        Case c = case_of(pair, m, shape.n, shape.k, shape.group_size);
        c.activations = testing::ActivationFill::kIntegers;
        c.scales = testing::ScaleFill::kPowersOfTwo;
        c.seed = ++seed;
        try_every_schedule(c, pair.w_type == WeightType::kE4m3 ? Check::kBounds : Check::kExact);
      }
    }
  }
  for (const Pair& pair : served_pairs()) coverage_.expect_all(pair.w_type, pair.a_type);
}

TEST_F(Types, Bounds) {
  std::uint64_t seed = 1000;
  for (const Pair& pair : served_pairs()) {
    for (const bool fractional : {false, true}) {
      if (fractional && !has_zero_points(pair.w_type)) continue;
      for (const std::int64_t group_size : {-1, 16, 32, 48, 64, 96, 128, 192}) {
        for (const std::int64_t m : {1, 13, 40, 130}) {
          Case c = case_of(pair, m, 640, 2880, group_size);
          c.fractional_zero_points = fractional;
          c.seed = ++seed;
          c.weight_seed = seed;
          try_every_schedule(c);
        }
      }
    }
  }
}

// The tensor cores keep few bits of sums of e4m3 (docs/numerics.md): what is lost must not grow with K. Outputs are
// f32, whose rounding does not show.
TEST_F(Types, SumsOfE4m3LoseTheSameWhateverK) {
  for (const WeightType w_type : {WeightType::kE4m3, WeightType::kU4b8}) {
    for (const std::int64_t group_size : {-1, 128, 32}) {
      for (const std::int64_t k : {128, 1024, 8192, 65536}) {
        Case c = case_of({w_type, DataType::kE4m3}, 256, 512, k, group_size);
        c.problem.d_type = DataType::kF32;
        for (const std::string& schedule : schedules_of(c.problem)) {
          c.schedule = schedule;
          EXPECT_TRUE(bench().try_case(c));
          const auto found = bench().check_output(c, Check::kBounds);
          EXPECT_LT(found.rel_frobenius, 0x1p-11) << schedule << ", K = " << k;
          RecordProperty(std::string(name_of(w_type)) + "_g" + std::to_string(group_size) + "_k" + std::to_string(k) +
                             "_" + schedule,
                         std::to_string(found.rel_frobenius) + " " + std::to_string(found.max_ratio));
        }
      }
    }
  }
}

TEST_F(Types, OddShapes) {
  std::uint64_t seed = 2000;
  for (const Pair& pair : served_pairs()) {
    for (const std::int64_t k : {50, 64, 200, 1030, 4100}) {
      for (const std::int64_t m : {3, 20, 70}) {
        Case c = case_of(pair, m, 137, k, 64);
        c.fractional_zero_points = has_zero_points(pair.w_type) && k % 4 == 0;
        c.problem.lda = k + 3;
        c.problem.ldd = 140 + m % 5;
        c.tensor_scale = 0.0625f * static_cast<float>(m);
        c.seed = ++seed;
        try_every_schedule(c);
      }
    }
  }
}

// The CPU and the GPU pack alike, whatever the type.
TEST_F(Types, PrepackedLikeOnTheCpu) {
  for (const Pair& pair : served_pairs()) {
    for (const bool act_order : {false, true}) {
      Case c = case_of(pair, 1, 100, 456, 48);
      c.problem.act_order = act_order;
      bench().prepare(c);
      PrepackOptions options;
      options.device = Device::cpu();
      options.scale_type = c.problem.scale_type();
      options.activation_bits = bits_of(pair.a_type);
      const PackedWeight on_cpu = require(prepack(bench().weight(), options));
      const PackedWeight from_gpu = require(copy_to(bench().packed(), Device::cpu()));
      ASSERT_EQ(on_cpu.header().payload_bytes(), from_gpu.header().payload_bytes());
      EXPECT_EQ(std::memcmp(on_cpu.weights(), from_gpu.weights(), on_cpu.header().payload_bytes()), 0)
          << name_of(pair.w_type) << (act_order ? " with g_idx" : "");
    }
  }
}

// Groups whose k's are mixed: the activations are gathered.
TEST_F(Types, ActOrder) {
  std::uint64_t seed = 3000;
  for (const WeightType w_type : {WeightType::kU4b8, WeightType::kU4}) {
    for (const DataType a_type : {DataType::kBf16, DataType::kF16, DataType::kS8, DataType::kE4m3}) {
      if (!served({w_type, a_type})) continue;
      for (const std::int64_t m : {1, 8, 30, 64, 300}) {
        for (const std::int64_t k : {1024, 1100}) {
          Case c = case_of({w_type, a_type}, m, 264, k, 128);
          c.problem.act_order = true;
          c.seed = ++seed;
          try_every_schedule(c);
        }
      }
    }
  }
}

TEST_F(Types, ActOrderNeedsAPlanForIt) {
  Case c = case_of({WeightType::kU4b8, DataType::kBf16}, 4, 64, 512, 128);
  c.problem.act_order = true;
  bench().prepare(c);
  bench().poison_output(c);
  Case other = c;
  other.problem.act_order = false;
  const Plan plan = require(bench().make_plan(other));
  const Status status = bench().run_plan(plan, bench().packed());
  EXPECT_EQ(status.code(), StatusCode::kIncompatible);
  EXPECT_NE(status.message().find("plan with act_order"), std::string::npos) << status.message();
}

TEST_F(Types, NanCodesAreRefused) {
  Case c = case_of({WeightType::kE4m3, DataType::kBf16}, 1, 64, 128, 128);
  bench().prepare(c);
  const unsigned char nan = 0xff;
  require(
      cudaMemcpy(static_cast<std::uint8_t*>(bench().qweight().data()) + 5 * 128 + 7, &nan, 1, cudaMemcpyHostToDevice),
      "copy");
  PrepackOptions options;
  options.device = Device::cuda();
  const auto packed = prepack(bench().weight(), options);
  ASSERT_FALSE(packed.ok());
  EXPECT_NE(packed.status().message().find("qweight[5, 7] is NaN"), std::string::npos) << packed.status().message();
}

}  // namespace
}  // namespace machete::tests
