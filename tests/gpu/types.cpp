#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include "kernels/convert/coding.h"
#include "tests/gpu/coverage.h"
#include "tests/gpu/workbench.h"

// Weight types beside u4b8, in whatever kernels this build has for them.
namespace machete::tests {
namespace {

using Check = Workbench::Check;

// The pairs of types that have kernels, but for u4b8 with 16-bit activations, which the other tests are about.
std::vector<Pair> served_pairs() {
  std::vector<Pair> pairs;
  for (const WeightType w_type : weight_types()) {
    for (const DataType a_type : kEveryActivationType) {
      const bool others = w_type == WeightType::kU4b8 && bits_of(a_type) == 16;
      if (!others && served({w_type, a_type})) pairs.push_back({w_type, a_type});
      const Pair to_f16{w_type, a_type, DataType::kF16};
      if (bits_of(a_type) == 8 && served(to_f16)) pairs.push_back(to_f16);
    }
  }
  return pairs;
}

Case case_of(const Pair& pair, std::int64_t m, std::int64_t n, std::int64_t k, std::int64_t group_size) {
  return Case{make_problem(pair, m, n, k, group_size)};
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
    // What fast accumulation changes are sums of more than 128 k.
    const bool long_groups = c.problem.group_size < 0 || c.problem.group_size > 128;
    if (c.problem.a_type != DataType::kE4m3 || c.problem.fast_accumulation || !long_groups) return;
    c.problem.fast_accumulation = true;
    // One product a sum is exact, however few bits are kept.
    try_every_schedule(c, c.identity_from ? check : Check::kBounds);
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
        // Sums of floating-point bytes round, and some would leave f16.
        const convert::Coding coding = convert::coding_of(pair.w_type);
        const bool exact = coding.is_integer() || coding.bits == 4;
        c.tensor_scale = exact ? 1 : 0.25f;
        try_every_schedule(c, exact ? Check::kExact : Check::kBounds);
      }
    }
  }
  for (const Pair& pair : served_pairs()) coverage_.expect_all(pair);
}

TEST_F(Types, Bounds) {
  std::uint64_t seed = 1000;
  for (const Pair& pair : served_pairs()) {
    for (const char* zero_points : {"integers", "fractions", "wide"}) {
      const bool fractional = zero_points[0] != 'i';
      if (fractional && !has_zero_points(pair.w_type)) continue;
      for (const std::int64_t group_size : {-1, 16, 32, 48, 64, 96, 128, 192}) {
        for (const std::int64_t m : {1, 13, 40, 130}) {
          Case c = case_of(pair, m, 640, 2880, group_size);
          c.fractional_zero_points = fractional;
          c.wide_zero_points = zero_points[0] == 'w';
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

TEST_F(Types, KernelsOfFastSumsAreForProblemsThatAllowThem) {
  Case c = case_of({WeightType::kE4m3, DataType::kE4m3}, 512, 512, 1024, -1);
  const std::vector<std::string> exact = schedules_of(c.problem);
  c.problem.fast_accumulation = true;
  PlanOptions options = on_cuda();
  int more = 0;
  for (const std::string& schedule : schedules_of(c.problem)) {
    options.schedule = schedule;
    c.problem.fast_accumulation = true;
    EXPECT_TRUE(plan(c.problem, options).ok()) << schedule;
    if (std::find(exact.begin(), exact.end(), schedule) != exact.end()) continue;
    ++more;
    c.problem.fast_accumulation = false;
    EXPECT_FALSE(plan(c.problem, options).ok()) << schedule;
  }
  EXPECT_GT(more, 0);
}

// With fast accumulation that grows with the k's of a group, and with nothing else.
TEST_F(Types, FastSumsOfE4m3LoseWithTheirLength) {
  for (const WeightType w_type : {WeightType::kE4m3, WeightType::kU4b8}) {
    for (const std::int64_t group_size : {-1, 512, 128, 32}) {
      for (const std::int64_t k : {128, 1024, 8192, 65536}) {
        Case c = case_of({w_type, DataType::kE4m3}, 256, 512, k, group_size);
        c.problem.d_type = DataType::kF32;
        c.problem.fast_accumulation = true;
        const double kept = static_cast<double>(group_size < 0 ? k : std::min(group_size, k));
        for (const std::string& schedule : schedules_of(c.problem)) {
          c.schedule = schedule;
          EXPECT_TRUE(bench().try_case(c));
          const auto found = bench().check_output(c, Check::kBounds);
          EXPECT_LT(found.rel_frobenius, std::max(0x1p-11, kept * 0x1p-19)) << schedule << ", K = " << k;
          RecordProperty("fast_" + std::string(name_of(w_type)) + "_g" + std::to_string(group_size) + "_k" +
                             std::to_string(k) + "_" + schedule,
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
      // 8-bit activations are served groups of whole k32 steps.
      Case c = case_of(pair, 1, 100, 456, bits_of(pair.a_type) == 8 ? 96 : 48);
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
    for (const DataType a_type : kEveryActivationType) {
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

// CTAs that arrange several tokens, the last one fewer; rows too long for that, and rows that do not start on 16 bytes.
TEST_F(Types, ActOrderOfManyTokensAndLongRows) {
  struct Sizes {
    DataType a_type;
    std::int64_t m, k, gap;
  };
  for (const Sizes& sizes : {Sizes{DataType::kBf16, 2050, 1104, 8},
                             {DataType::kS8, 2050, 1104, 16},
                             {DataType::kBf16, 266, 20000, 8},
                             {DataType::kBf16, 66, 50000, 8},
                             {DataType::kBf16, 66, 1104, 5}}) {
    if (!served({WeightType::kU4b8, sizes.a_type})) continue;
    Case c = case_of({WeightType::kU4b8, sizes.a_type}, sizes.m, 136, sizes.k, 128);
    c.problem.act_order = true;
    c.problem.lda = sizes.k + sizes.gap;
    c.seed = 3900 + static_cast<std::uint64_t>(sizes.m);
    EXPECT_TRUE(bench().try_case(c));
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

TEST_F(Types, CodesThatAreNoNumbersAreRefused) {
  for (const WeightType w_type : weight_types()) {
    const convert::Coding coding = convert::coding_of(w_type);
    if (coding.bits != 8 || !served({w_type, DataType::kBf16})) continue;
    Case c = case_of({w_type, DataType::kBf16}, 1, 64, 128, 128);
    bench().prepare(c);
    for (int code = 0; code < 256; ++code) {
      if (coding.is_finite(code)) continue;
      require(cudaMemcpy(static_cast<std::uint8_t*>(bench().qweight().data()) + 5 * 128 + 7, &code, 1,
                         cudaMemcpyHostToDevice),
              "copy");
      PrepackOptions options;
      options.device = Device::cuda();
      const auto packed = prepack(bench().weight(), options);
      ASSERT_FALSE(packed.ok()) << name_of(w_type) << " " << code;
      const char* found = std::isnan(coding.value(code)) ? "qweight[5, 7] is NaN" : "qweight[5, 7] is infinite";
      EXPECT_NE(packed.status().message().find(found), std::string::npos) << packed.status().message();
    }
  }
}

// MXFP4 and NVFP4 with scales of their own types, and e4m3 in blocks of 128 x 128, as checkpoints hold them.
TEST_F(Types, ScalesOfCheckpoints) {
  struct Format {
    WeightType w_type;
    DataType scale_type;
    std::int64_t group_size;
    testing::ScaleFill scales;
    bool tensor_scale;
  };
  const Format formats[] = {{WeightType::kE2m1, DataType::kE8m0, 32, testing::ScaleFill::kRandom, false},
                            {WeightType::kE2m1, DataType::kE4m3, 16, testing::ScaleFill::kRandom, true},
                            {WeightType::kE4m3, DataType::kBf16, 128, testing::ScaleFill::kBlocks, false}};
  std::uint64_t seed = 4000;
  for (const Format& format : formats) {
    for (const DataType a_type : kEveryActivationType) {
      if (!served({format.w_type, a_type})) continue;
      const auto make = [&](std::int64_t m, std::int64_t n, std::int64_t k) {
        Case c = case_of({format.w_type, a_type}, m, n, k, format.group_size);
        if (format.scale_type != DataType::kBf16) c.scale_type = format.scale_type;
        c.scales = format.scales;
        c.seed = c.weight_seed = ++seed;
        return c;
      };
      for (const std::int64_t rows : {576, 40, 8}) {
        Case c = make(rows, 300, 576);
        c.identity_from = rows < 576 ? 17 : 0;
        c.tensor_scale = format.tensor_scale ? 0.25f : 1;
        // A product of e4m3 and its scale has up to 12 bits; the others' are exact.
        try_every_schedule(c, format.w_type == WeightType::kE2m1 ? Check::kExact : Check::kBounds);
      }
      for (const std::int64_t m : {1, 16, 64, 130}) {
        Case c = make(m, 640, 2880);
        c.tensor_scale = format.tensor_scale ? 0.37f : 1;
        try_every_schedule(c);
      }
    }
  }
}

// A row for each scale of e8m0 whose products are finite, the smallest of them subnormal, with all codes of e2m1.
TEST_F(Types, EveryPowerOfTwoOfMxfp4) {
  constexpr std::int64_t kRows = 252;  // 2^-127 ... 2^124
  Case c = case_of({WeightType::kE2m1, DataType::kBf16}, 32, kRows, 32, 32);
  if (!served({c.problem.w_type, c.problem.a_type})) GTEST_SKIP() << "no kernel";
  c.scale_type = DataType::kE8m0;
  c.identity_from = 0;
  bench().prepare(c);
  std::vector<std::uint8_t> scales(kRows);
  std::vector<std::uint8_t> codes(kRows * 16);
  for (std::size_t i = 0; i < scales.size(); ++i) scales[i] = static_cast<std::uint8_t>(i);
  for (std::size_t i = 0; i < codes.size(); ++i) codes[i] = static_cast<std::uint8_t>(i % 16 | (15 - i % 16) << 4);
  require(bench().scales().upload(scales.data(), scales.size()));
  require(bench().qweight().upload(codes.data(), codes.size()));
  PrepackOptions options;
  options.device = Device::cuda();
  const PackedWeight packed = require(prepack(bench().weight(), options));
  for (const std::string& schedule : schedules_of(c.problem)) {
    c.schedule = schedule;
    bench().poison_output(c);
    require(bench().run_plan(require(bench().make_plan(c)), packed));
    const auto report = bench().check_output(c, Check::kExact);
    require(report.status);
    EXPECT_TRUE(report.passed) << "scale 2^" << report.worst_n - 127 << ", k " << report.worst_m << "\n  " << c;
  }
}

// The largest sum that int32 holds, of the largest products.
TEST_F(Types, SumsOfS8AreExactToTheLast) {
  for (const WeightType w_type : {WeightType::kU8b128, WeightType::kU4b8}) {
    Case c = case_of({w_type, DataType::kS8}, 3, 64, 131008, -1);
    c.problem.d_type = DataType::kF32;
    c.scales = testing::ScaleFill::kOne;
    bench().prepare(c);
    require(bench().qweight().fill(0));  // -128 and -8: with 4 bits the MMA's operand is 16 times that
    require(bench().a().fill(0x80));     // -128
    PrepackOptions options;
    options.device = Device::cuda();
    options.activation_bits = 8;
    const PackedWeight packed = require(prepack(bench().weight(), options));
    for (const std::string& schedule : schedules_of(c.problem)) {
      c.schedule = schedule;
      bench().poison_output(c);
      require(bench().run_plan(require(bench().make_plan(c)), packed));
      const auto report = bench().check_output(c, Check::kExact);
      require(report.status);
      EXPECT_TRUE(report.passed) << c;
    }
    bench().prepare_activations(c, bench().stream());
  }
}

// A NaN among a token's e4m3 codes makes its row of D NaN, and no other.
TEST_F(Types, NanActivationsPropagate) {
  for (const WeightType w_type : {WeightType::kU4b8, WeightType::kE4m3, WeightType::kE2m1}) {
    if (!served({w_type, DataType::kE4m3})) continue;
    for (const std::int64_t m : {1, 40, 150}) {
      for (const std::int64_t group_size : {-1, 32, 128}) {
        Case c = case_of({w_type, DataType::kE4m3}, m, 200, 1024, group_size);
        c.problem.d_type = DataType::kF32;
        const auto token = static_cast<std::size_t>(m / 2);
        for (const std::string& schedule : schedules_of(c.problem)) {
          c.schedule = schedule;
          ASSERT_TRUE(bench().try_case(c));
          const std::vector<unsigned char> clean = bench().output();
          const Plan plan = require(bench().make_plan(c));
          for (const int nan : {0x7f, 0xff}) {
            bench().prepare_activations(c, bench().stream());
            require(cudaMemsetAsync(bench().a().as<char>() + token * 1024 + 77, nan, 1, bench().stream()), "a NaN");
            bench().poison_output(c);
            require(bench().run_plan(plan, bench().packed()));
            const std::vector<unsigned char> found = bench().output();
            for (std::size_t i = 0; i < found.size(); i += 4) {
              if (i / 800 != token) {
                ASSERT_EQ(std::memcmp(&found[i], &clean[i], 4), 0) << "element " << i / 4 << "\n  " << c;
                continue;
              }
              float value = 0;
              std::memcpy(&value, &found[i], 4);
              ASSERT_TRUE(std::isnan(value)) << "element " << i / 4 << "\n  " << c;
            }
          }
          bench().prepare_activations(c, bench().stream());
        }
      }
    }
  }
}

}  // namespace
}  // namespace machete::tests
