// The CPU backend, in every instruction set this processor has.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <omp.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>

#include "reference/bound.h"
#include "reference/dequantize.h"
#include "reference/linear.h"
#include "tests/cpu/reference_case.h"

namespace machete::reference {
namespace {

using ::testing::HasSubstr;

constexpr float kPoison = -12345.0f;
const std::vector<std::int64_t> kSizesN = {1, 17, 67};
const std::vector<std::int64_t> kSizesK = {1, 15, 16, 63, 65, 100, 576};
const std::vector<std::int64_t> kGroupSizes = {-1, 16, 32, 48, 64, 128, 144};

PackedWeight pack(const OwnedWeight& weight, DataType a_type) {
  PrepackOptions options;
  options.device = Device::cpu();
  options.activation_bits = bits_of(a_type);
  options.scale_type = options.activation_bits == 16 ? a_type : DataType::kBf16;
  auto packed = prepack(weight.view, options);
  EXPECT_TRUE(packed.ok()) << packed.status().message();
  return packed.ok() ? *packed : PackedWeight();
}

// 16 bits, of the activations' type where that has as many.
DataType narrow_output(DataType a_type) { return bits_of(a_type) == 16 ? a_type : DataType::kBf16; }

class CpuLinear : public ::testing::TestWithParam<std::tuple<InstructionSet, Kind>> {
 protected:
  static InstructionSet set() { return std::get<0>(GetParam()); }
  static Kind kind() { return std::get<1>(GetParam()); }
  /// D of the problem's type, poisoned before.
  static std::vector<std::uint8_t> run(const Problem& problem, const std::vector<std::uint8_t>& a,
                                       const PackedWeight& weight) {
    const std::int64_t ldd = problem.ldd > 0 ? problem.ldd : problem.n;
    std::vector<std::uint8_t> d =
        rounded_to(problem.d_type, std::vector<float>(static_cast<std::size_t>(problem.m * ldd), kPoison));
    const Status status = linear(problem, {a.data(), &weight, d.data()}, set());
    EXPECT_TRUE(status.ok()) << status.message();
    return d;
  }
};

TEST_P(CpuLinear, IdentityGivesTheExactWeights) {
  for (const DataType type : activation_types(kind())) {
    for (const std::int64_t n : kSizesN) {
      for (const std::int64_t k : kSizesK) {
        const std::int64_t m = std::min<std::int64_t>(k, 100);
        for (const std::int64_t group_size : kGroupSizes) {
          // Token i asks for one k; over the group sizes all are asked for.
          const auto asked = [&](std::int64_t i) { return (i * k / m + (group_size + 1) / 16) % k; };
          std::vector<float> units(static_cast<std::size_t>(m * k));
          for (std::int64_t i = 0; i < m; ++i) units[static_cast<std::size_t>(i * k + asked(i))] = 1;
          const std::vector<std::uint8_t> a = rounded_to(type, units);
          const OwnedWeight weight = random_weight(n, k, group_size, 11, kind());
          const PackedWeight packed = pack(weight, type);
          const std::vector<float> expected = dequantize(weight.view);  // [N, K]
          for (const DataType d_type : {DataType::kF32, narrow_output(type), DataType::kE4m3}) {
            const std::vector<std::uint8_t> d = run(problem_of(m, weight.view, type, d_type), a, packed);  // [M, N]
            const std::vector<std::uint8_t> rounded = rounded_to(d_type, expected);
            for (std::int64_t row = 0; row < n; ++row) {
              for (std::int64_t i = 0; i < m; ++i) {
                ASSERT_EQ(to_float(d_type, d.data(), i * n + row), to_float(d_type, rounded.data(), row * k + asked(i)))
                    << row << ", " << asked(i) << " of N=" << n << ", K=" << k << ", group_size=" << group_size;
              }
            }
          }
        }
      }
    }
  }
}

TEST_P(CpuLinear, SmallIntegersAreExact) {
  for (const DataType type : activation_types(kind())) {
    for (const std::int64_t m : {1, 3, 5, 70}) {
      for (const std::int64_t k : kSizesK) {
        const std::int64_t n = 67;
        OwnedWeight weight = random_weight(n, k, 32, 21, kind());
        std::vector<float> scales(static_cast<std::size_t>(weight.view.groups() * n));
        for (std::size_t i = 0; i < scales.size(); ++i) scales[i] = static_cast<float>(1 << i % 3);
        weight.scales = rounded_to(DataType::kBf16, scales);
        weight.view.scales = weight.scales.data();
        std::mt19937 random(5);
        std::vector<float> values(static_cast<std::size_t>(m * k));
        for (float& value : values) value = static_cast<float>(static_cast<int>(random() % 15) - 7);

        const std::vector<float> w = dequantize(weight.view);
        std::vector<float> expected(static_cast<std::size_t>(m * n));
        for (std::int64_t row = 0; row < m; ++row) {
          for (std::int64_t column = 0; column < n; ++column) {
            double sum = 0;  // exact, as is the same in fp32: small multiples of 1/16
            for (std::int64_t i = 0; i < k; ++i) {
              sum += static_cast<double>(values[static_cast<std::size_t>(row * k + i)]) *
                     static_cast<double>(w[static_cast<std::size_t>(column * k + i)]);
            }
            expected[static_cast<std::size_t>(row * n + column)] = static_cast<float>(sum);
          }
        }
        for (const DataType d_type : {DataType::kF32, narrow_output(type), DataType::kE4m3}) {
          const auto d = run(problem_of(m, weight.view, type, d_type), rounded_to(type, values), pack(weight, type));
          // Bytes would tell 0 from -0; sums may come out as either.
          const auto rounded = rounded_to(d_type, expected);
          for (std::int64_t i = 0; i < m * n; ++i) {
            ASSERT_EQ(to_float(d_type, d.data(), i), to_float(d_type, rounded.data(), i)) << "M=" << m << ", K=" << k;
          }
        }
      }
    }
  }
}

TEST_P(CpuLinear, RandomDataStayWithinTheBound) {
  unsigned seed = 0;
  for (const DataType type : activation_types(kind())) {
    for (const std::int64_t m : {1, 4, 5, 33, 130}) {
      for (const std::int64_t n : {1, 17, 67, 384}) {
        for (const std::int64_t k : {1, 63, 100, 576, 1100}) {
          const std::int64_t group_size = kGroupSizes[++seed % kGroupSizes.size()];
          const OwnedWeight weight = random_weight(n, k, group_size, seed, kind());
          const DataType outputs[] = {DataType::kF32, narrow_output(type), DataType::kE4m3};
          const Problem problem = problem_of(m, weight.view, type, outputs[seed % 3]);
          const std::vector<std::uint8_t> a = normal_activations(type, m * k, seed + 1);
          const std::vector<std::uint8_t> d = run(problem, a, pack(weight, type));
          const ErrorReport report = check_linear(problem, a.data(), weight.view, d.data());
          ASSERT_TRUE(report.passed) << report.max_ratio << " at " << report.worst_m << ", " << report.worst_n
                                     << " of M=" << m << ", N=" << n << ", K=" << k << ", group_size=" << group_size;
          // Better than the contract: weights are not rounded, so fp32 sums are all there is before the store.
          if (n == 1) continue;  // a few elements may be small by cancellation
          ASSERT_LE(report.rel_frobenius, 1.5 * unit_roundoff(problem.d_type) + 5e-6);
        }
      }
    }
  }
}

TEST_P(CpuLinear, ReadsAndWritesOnlyItsRows) {
  const std::int64_t m = 70;
  const std::int64_t n = 67;
  const std::int64_t k = 100;
  const OwnedWeight weight = random_weight(n, k, 48, 3, kind());
  const PackedWeight packed = pack(weight, DataType::kBf16);
  Problem problem = problem_of(m, weight.view, DataType::kBf16, DataType::kBf16);
  const std::vector<float> values = normal_values(m * k, 4);
  const std::vector<std::uint8_t> dense = run(problem, rounded_to(DataType::kBf16, values), packed);

  problem.lda = k + 3;
  problem.ldd = n + 5;
  std::vector<float> wide(static_cast<std::size_t>(m * problem.lda), std::numeric_limits<float>::quiet_NaN());
  for (std::int64_t row = 0; row < m; ++row) {
    std::copy_n(values.data() + row * k, k, wide.data() + row * problem.lda);
  }
  const std::vector<std::uint8_t> d = run(problem, rounded_to(DataType::kBf16, wide), packed);
  for (std::int64_t row = 0; row < m; ++row) {
    for (std::int64_t column = 0; column < problem.ldd; ++column) {
      const float found = to_float(DataType::kBf16, d.data(), row * problem.ldd + column);
      std::uint16_t poison = 0;
      from_float(DataType::kBf16, &poison, 0, kPoison);
      ASSERT_EQ(found, column < n ? to_float(DataType::kBf16, dense.data(), row * n + column)
                                  : to_float(DataType::kBf16, &poison, 0))
          << row << ", " << column;
    }
  }
}

TEST_P(CpuLinear, DoesNotDependOnThreads) {
  const OwnedWeight weight = random_weight(700, 600, 64, 9, kind());
  const PackedWeight packed = pack(weight, DataType::kF16);
  const int threads = omp_get_max_threads();
  for (const std::int64_t m : {1, 3, 100}) {
    const Problem problem = problem_of(m, weight.view, DataType::kF16, DataType::kF32);
    const std::vector<std::uint8_t> a = rounded_to(DataType::kF16, normal_values(m * 600, 4));
    omp_set_num_threads(1);
    const std::vector<std::uint8_t> one = run(problem, a, packed);
    for (const int count : {2, 3, 7, 7}) {
      omp_set_num_threads(count);
      EXPECT_EQ(run(problem, a, packed), one) << count << " threads";
    }
  }
  omp_set_num_threads(threads);
}

TEST_P(CpuLinear, KeepsNonFiniteActivationsToTheirRow) {
  const std::int64_t m = 6;
  const std::int64_t n = 40;
  const OwnedWeight weight = random_weight(n, 100, 64, 9, kind());
  std::vector<float> values = normal_values(m * 100, 4);
  values[2 * 100 + 99] = std::numeric_limits<float>::quiet_NaN();
  values[4 * 100] = std::numeric_limits<float>::infinity();
  for (const DataType type : {DataType::kBf16, DataType::kF16}) {
    const Problem problem = problem_of(m, weight.view, type, type);
    const std::vector<std::uint8_t> a = rounded_to(type, values);
    const std::vector<std::uint8_t> d = run(problem, a, pack(weight, type));
    EXPECT_TRUE(check_linear(problem, a.data(), weight.view, d.data()).passed);
    for (std::int64_t column = 0; column < n; ++column) {
      EXPECT_TRUE(std::isnan(to_float(type, d.data(), 2 * n + column)));
      EXPECT_FALSE(std::isfinite(to_float(type, d.data(), 4 * n + column)));
      EXPECT_TRUE(std::isfinite(to_float(type, d.data(), 3 * n + column)));
    }
  }
}

TEST_P(CpuLinear, OverflowsToInfinity) {
  OwnedWeight weight = random_weight(16, 64, 64, 1);
  std::fill(weight.qweight.begin(), weight.qweight.end(), std::uint8_t{0xff});
  weight.scales = rounded_to(DataType::kBf16, std::vector<float>(16, 1.0f));
  weight.view.scales = weight.scales.data();
  const Problem problem = problem_of(1, weight.view, DataType::kF16, DataType::kF16);
  const std::vector<std::uint8_t> a = rounded_to(DataType::kF16, std::vector<float>(64, 200.0f));
  const std::vector<std::uint8_t> d = run(problem, a, pack(weight, DataType::kF16));
  for (std::int64_t i = 0; i < 16; ++i) {
    EXPECT_EQ(to_float(DataType::kF16, d.data(), i), std::numeric_limits<float>::infinity());
  }
}

TEST_P(CpuLinear, DoesNothingWithoutTokens) {
  const OwnedWeight weight = random_weight(16, 64, 64, 1);
  const Problem problem = problem_of(0, weight.view, DataType::kBf16, DataType::kBf16);
  const PackedWeight packed = pack(weight, DataType::kBf16);
  EXPECT_TRUE(linear(problem, {nullptr, &packed, nullptr}, set()).ok());
}

INSTANTIATE_TEST_SUITE_P(All, CpuLinear,
                         ::testing::Combine(::testing::ValuesIn(supported_instruction_sets()),
                                            ::testing::ValuesIn(all_kinds())),
                         [](const auto& test) {
                           return std::string(name_of(std::get<0>(test.param))) + "_" +
                                  name_of(std::get<1>(test.param));
                         });

// Scales as MXFP4 (powers of two for 32) and NVFP4 (e4m3 for 16 and one for the tensor) have them.
TEST(CpuLinearMicroscaling, ScalesOfEightBitsStayWithinTheBound) {
  std::mt19937 random(3);
  for (const bool nvidia : {false, true}) {
    OwnedWeight weight = random_weight(67, 300, nvidia ? 16 : 32, 5, {WeightType::kE2m1});
    weight.view.scale_type = nvidia ? DataType::kE4m3 : DataType::kE8m0;
    weight.view.tensor_scale = nvidia ? 0.0123f : 1;
    weight.scales.resize(static_cast<std::size_t>(weight.view.groups() * 67));
    for (std::uint8_t& scale : weight.scales) {
      scale = static_cast<std::uint8_t>(nvidia ? random() % 127 : 120 + random() % 14);
    }
    weight.view.scales = weight.scales.data();
    for (const DataType type : {DataType::kBf16, DataType::kF16}) {
      const PackedWeight packed = pack(weight, type);
      const Problem problem = problem_of(5, weight.view, type, type);
      const std::vector<std::uint8_t> a = rounded_to(type, normal_values(5 * 300, 8));
      std::vector<std::uint8_t> d(5 * 67 * 2, 0xff);
      ASSERT_TRUE(linear(problem, {a.data(), &packed, d.data()}).ok());
      EXPECT_TRUE(check_linear(problem, a.data(), weight.view, d.data()).passed) << nvidia;
      QuantizedWeight other = weight.view;
      other.tensor_scale *= 1.05f;
      EXPECT_FALSE(check_linear(problem, a.data(), other, d.data()).passed);
    }
  }
}

std::vector<std::pair<std::int64_t, DataType>> combinations(const std::vector<std::int64_t>& sizes,
                                                            const std::vector<DataType>& types) {
  std::vector<std::pair<std::int64_t, DataType>> all;
  for (const std::int64_t size : sizes) {
    for (const DataType type : types) all.emplace_back(size, type);
  }
  return all;
}

// Groups in an order of their own: the same numbers as with K sorted by hand.
TEST(CpuLinearActOrder, GathersTheActivations) {
  for (const Kind& kind : all_kinds()) {
    for (const auto& [group_size, a_type] : combinations({-1, 16, 48, 64}, activation_types(kind))) {
      const std::int64_t n = 35;
      const std::int64_t k = 200;
      OwnedWeight weight = random_weight(n, k, group_size, 3, kind);
      std::vector<std::int32_t> g_idx(static_cast<std::size_t>(k));
      for (std::int64_t i = 0; i < k; ++i) {
        g_idx[static_cast<std::size_t>(i)] = static_cast<std::int32_t>(group_size < 0 ? 0 : i / group_size);
      }
      std::shuffle(g_idx.begin(), g_idx.end(), std::mt19937(9));
      weight.view.g_idx = g_idx.data();
      const PackedWeight packed = pack(weight, a_type);
      EXPECT_EQ(packed.permutation() == nullptr, group_size < 0);
      const Problem problem = problem_of(6, weight.view, a_type, narrow_output(a_type));
      const std::vector<std::uint8_t> a = normal_activations(a_type, 6 * k, 8);
      std::vector<std::uint8_t> d(6 * static_cast<std::size_t>(n) * bytes_of(problem.d_type), 0xff);
      ASSERT_TRUE(linear(problem, {a.data(), &packed, d.data()}).ok());
      EXPECT_TRUE(check_linear(problem, a.data(), weight.view, d.data()).passed)
          << name_of(kind) << ", " << group_size << ", " << name_of(a_type);
      QuantizedWeight in_order = weight.view;
      in_order.g_idx = nullptr;
      EXPECT_EQ(check_linear(problem, a.data(), in_order, d.data()).passed, group_size < 0);

      const auto unpacked = unpack(packed);
      ASSERT_TRUE(unpacked.ok());
      EXPECT_EQ(unpacked->qweight, weight.qweight);
      if (a_type != DataType::kF16) {
        EXPECT_EQ(unpacked->scales, weight.scales);
      }
      EXPECT_EQ(unpacked->g_idx, group_size < 0 ? std::vector<std::int32_t>() : g_idx);
    }
  }
}

// The bound of 8-bit activations lets nothing pass that a kernel may get wrong.
TEST(CpuLinearEightBits, FaultsAreFound) {
  struct Pair {
    DataType a_type;
    WeightType w_type;
  };
  for (const auto& [a_type, w_type] :
       {Pair{DataType::kS8, WeightType::kU4b8}, Pair{DataType::kS8, WeightType::kS8},
        Pair{DataType::kE4m3, WeightType::kU4b8}, Pair{DataType::kE4m3, WeightType::kE4m3}}) {
    const std::int64_t m = 8;
    const std::int64_t n = 64;
    const std::int64_t k = 4096;
    const OwnedWeight weight = random_weight(n, k, 128, 3, {w_type});
    const Problem problem = problem_of(m, weight.view, a_type, DataType::kBf16);
    const std::vector<std::uint8_t> a = normal_activations(a_type, m * k, 8);
    const PackedWeight packed = pack(weight, a_type);
    std::vector<std::uint8_t> d(static_cast<std::size_t>(m * n) * 2);
    const auto passes = [&](const std::vector<std::uint8_t>& activations) {
      EXPECT_TRUE(linear(problem, {activations.data(), &packed, d.data()}).ok());
      return check_linear(problem, a.data(), weight.view, d.data()).passed;
    };
    EXPECT_TRUE(passes(a));
    std::vector<std::uint8_t> forgotten = a;  // a step of the MMA in every row
    for (std::int64_t row = 0; row < m; ++row) std::fill_n(forgotten.begin() + row * k + 1024, 32, std::uint8_t{0});
    EXPECT_FALSE(passes(forgotten)) << name_of(a_type);
    std::vector<std::uint8_t> swapped = a;  // two k's of a lane's word
    for (std::int64_t row = 0; row < m; ++row) std::swap(swapped[row * k + 5], swapped[row * k + 6]);
    EXPECT_FALSE(passes(swapped)) << name_of(a_type);
  }
}

TEST(CpuLinearEightBits, OtherPairsAndOrdersAreRefused) {
  const OwnedWeight weight = random_weight(16, 64, 64, 1);
  PlanOptions options;
  options.device = Device::cpu();
  const auto refusal = [&](DataType a_type, WeightType w_type) {
    Problem problem = problem_of(1, weight.view, a_type, DataType::kBf16);
    problem.w_type = w_type;
    return plan(problem, options).status().message();
  };
  EXPECT_THAT(refusal(DataType::kE4m3, WeightType::kU8b128), HasSubstr("e4m3 meets u4b8, s4, e4m3 and e2m1"));
  EXPECT_THAT(refusal(DataType::kS8, WeightType::kE4m3), HasSubstr("s8 meets u4b8, u8b128, s4 and s8"));
  EXPECT_THAT(refusal(DataType::kS8, WeightType::kU4), HasSubstr("a_type=s8 with w_type=u4"));
  EXPECT_THAT(refusal(DataType::kU8, WeightType::kU4b8), HasSubstr("use bf16, f16, s8 or e4m3"));

  const auto run_with = [&](DataType planned, DataType packed_for) {
    const auto made = plan(problem_of(1, weight.view, planned, DataType::kBf16), options);
    EXPECT_TRUE(made.ok());
    const PackedWeight packed = pack(weight, packed_for);
    const std::vector<std::uint8_t> a(128);
    std::vector<std::uint8_t> d(32);
    return run(*made, {a.data(), &packed, d.data()}, nullptr, 0).message();
  };
  EXPECT_THAT(run_with(DataType::kS8, DataType::kBf16), HasSubstr("prepack with activation_bits=8"));
  EXPECT_THAT(run_with(DataType::kBf16, DataType::kE4m3), HasSubstr("prepack with activation_bits=16"));
  EXPECT_EQ(run_with(DataType::kS8, DataType::kE4m3), "");  // the same order

  PrepackOptions eight;
  eight.device = Device::cpu();
  eight.activation_bits = 8;
  EXPECT_THAT(prepack(random_weight(16, 64, 64, 1, {WeightType::kU4}).view, eight).status().message(),
              HasSubstr("u4 weights meet no 8-bit activations"));
  eight.activation_bits = 4;
  EXPECT_THAT(prepack(weight.view, eight).status().message(), HasSubstr("activation_bits=4 must be 16 or 8"));
}

TEST(CpuLinearArguments, OtherWeightsAreRefused) {
  const OwnedWeight weight = random_weight(16, 64, 64, 1);
  const PackedWeight packed = pack(weight, DataType::kBf16);
  Problem problem = problem_of(0, weight.view, DataType::kBf16, DataType::kBf16);
  problem.k = 65;
  const Status status = linear(problem, {nullptr, &packed, nullptr});
  EXPECT_EQ(status.code(), StatusCode::kIncompatible);
  EXPECT_THAT(status.message(), HasSubstr("[16, 64]"));
  problem.k = 64;
  const PackedWeight elsewhere(packed.header(), Device::cuda(0), nullptr);
  EXPECT_EQ(linear(problem, {nullptr, &elsewhere, nullptr}).code(), StatusCode::kIncompatible);
}

}  // namespace
}  // namespace machete::reference
