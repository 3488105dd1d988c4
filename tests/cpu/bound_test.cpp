// The check that judges every kernel: right results pass it, and each fault it exists for does not.
#include "reference/bound.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>

#include "reference/dequantize.h"
#include "tests/cpu/reference_case.h"

namespace machete::reference {
namespace {

struct Case {
  OwnedWeight weight;
  Problem problem;
  std::vector<std::uint8_t> a;  // [M, K]
  std::vector<std::uint8_t> d;  // [M, N]

  ErrorReport check() const { return check_linear(problem, a.data(), weight.view, d.data()); }
};

// The least precise computation that the contract allows: scaled weights rounded to the compute type, fp32 sums, with
// the k's in [skip_from, skip_to) forgotten.
void compute(Case& c, std::int64_t skip_from = 0, std::int64_t skip_to = 0) {
  const Problem& p = c.problem;
  const std::vector<float> exact = dequantize(c.weight.view);
  const std::vector<std::uint8_t> rounded = rounded_to(p.a_type, exact);
  std::vector<float> w(exact.size());
  to_floats(p.a_type, rounded.data(), 0, p.n * p.k, w.data());
  std::vector<float> a(static_cast<std::size_t>(p.m * p.k));
  to_floats(p.a_type, c.a.data(), 0, p.m * p.k, a.data());
  c.d.assign(static_cast<std::size_t>(p.m * p.n) * bytes_of(p.d_type), 0);
  for (std::int64_t m = 0; m < p.m; ++m) {
    for (std::int64_t n = 0; n < p.n; ++n) {
      float sum = 0;
      for (std::int64_t k = 0; k < p.k; ++k) {
        if (k >= skip_from && k < skip_to) continue;
        sum += a[static_cast<std::size_t>(m * p.k + k)] * w[static_cast<std::size_t>(n * p.k + k)];
      }
      from_float(p.d_type, c.d.data(), m * p.n + n, sum);
    }
  }
}

Case make_case(std::int64_t m, std::int64_t n, std::int64_t k, std::int64_t group_size, DataType type, unsigned seed,
               DataType d_type) {
  Case c;
  c.weight = random_weight(n, k, group_size, seed, {}, type);
  c.problem = problem_of(m, c.weight.view, type, d_type);
  c.a = rounded_to(type, normal_values(m * k, seed + 1000));
  return c;
}

class Bound : public ::testing::TestWithParam<DataType> {
 protected:
  static Case make(std::int64_t m, std::int64_t n, std::int64_t k, std::int64_t group_size, unsigned seed = 1) {
    return make_case(m, n, k, group_size, GetParam(), seed, GetParam());
  }
};

TEST_P(Bound, PassesWhatTheContractAllows) {
  for (unsigned seed = 0; seed < 20; ++seed) {
    for (const std::int64_t k : {1, 17, 64, 576, 2048}) {
      Case c = make(5, 67, k, 64, seed);
      compute(c);
      const ErrorReport report = c.check();
      EXPECT_TRUE(report.passed) << "seed " << seed << ", K=" << k << ": " << report.max_ratio << " at "
                                 << report.worst_m << ", " << report.worst_n;
      EXPECT_LE(report.rel_frobenius, 3 * unit_roundoff(GetParam()));
    }
  }
}

TEST_P(Bound, AppliesToF32Outputs) {
  Case c = make_case(3, 40, 300, 32, GetParam(), 3, DataType::kF32);
  compute(c);
  EXPECT_TRUE(c.check().passed);
}

TEST_P(Bound, FailsWhenAnyBlockOf64IsDropped) {
  Case c = make(4, 64, 1024, 128);
  for (std::int64_t k = 0; k < 1024; k += 64) {
    compute(c, k, k + 64);
    EXPECT_FALSE(c.check().passed) << "without k's from " << k;
  }
}

TEST_P(Bound, FailsWhenABlockIsDroppedFromALongSum) {
  Case c = make(2, 64, 14336, 128);
  compute(c);
  EXPECT_TRUE(c.check().passed);
  compute(c, 7168, 7168 + 64);
  EXPECT_FALSE(c.check().passed);
}

TEST_P(Bound, FailsWhenAnyGroupOrHalfIsDropped) {
  for (const std::int64_t group_size : {16, 48, 128}) {
    Case c = make(4, 64, 576, group_size);
    for (std::int64_t k = 0; k < 576; k += group_size) {
      compute(c, k, k + group_size);
      EXPECT_FALSE(c.check().passed) << "without the group from " << k << ", group_size=" << group_size;
    }
    compute(c, 288, 576);
    EXPECT_FALSE(c.check().passed);
  }
}

TEST_P(Bound, FailsWhenAGroupTakesItsNeighboursScale) {
  Case c = make(4, 64, 576, 64);
  compute(c);
  const std::int64_t groups = c.weight.view.groups();
  for (std::int64_t group = 0; group + 1 < groups; ++group) {
    Case other = c;
    other.weight.view.scales = other.weight.scales.data();
    for (std::int64_t n = 0; n < 64; ++n) {
      const float scale = to_float(GetParam(), c.weight.scales.data(), (group + 1) * 64 + n);
      from_float(GetParam(), other.weight.scales.data(), group * 64 + n, scale);
    }
    EXPECT_FALSE(other.check().passed) << group;
  }
}

TEST_P(Bound, FailsOnConstantsNanAndInf) {
  Case c = make(3, 20, 128, 64);
  compute(c);
  ASSERT_TRUE(c.check().passed);
  for (const float value :
       {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(), -1e4f, 1e4f}) {
    Case broken = c;  // its view borrows the arrays of c
    from_float(GetParam(), broken.d.data(), 2 * 20 + 13, value);
    const ErrorReport report = broken.check();
    EXPECT_FALSE(report.passed) << value;
    EXPECT_EQ(report.worst_m, 2);
    EXPECT_EQ(report.worst_n, 13);
  }
  c.d.assign(c.d.size(), 0);
  EXPECT_FALSE(c.check().passed) << "all zeros";
}

TEST_P(Bound, ExpectsWhatNonFiniteActivationsGive) {
  Case c = make(2, 33, 100, 16);
  from_float(GetParam(), c.a.data(), 7, std::numeric_limits<float>::quiet_NaN());
  from_float(GetParam(), c.a.data(), 100 + 7, std::numeric_limits<float>::infinity());
  compute(c);
  EXPECT_TRUE(c.check().passed);
  for (const std::int64_t row : {0, 1}) {
    Case broken = c;
    from_float(GetParam(), broken.d.data(), row * 33 + 5, 0.0f);
    EXPECT_FALSE(broken.check().passed) << "a number where row " << row << " owes NaN or Inf";
  }
}

TEST_P(Bound, SeesPastStrides) {
  Case c = make(3, 20, 64, 64);
  compute(c);
  const std::size_t bytes = bytes_of(GetParam());
  Case wide = c;
  wide.problem.lda = 70;
  wide.problem.ldd = 23;
  wide.a.assign(3 * 70 * bytes, 0xff);  // NaN
  wide.d.assign(3 * 23 * bytes, 0xff);
  for (std::size_t m = 0; m < 3; ++m) {
    std::copy_n(c.a.data() + m * 64 * bytes, 64 * bytes, wide.a.data() + m * 70 * bytes);
    std::copy_n(c.d.data() + m * 20 * bytes, 20 * bytes, wide.d.data() + m * 23 * bytes);
  }
  EXPECT_TRUE(wide.check().passed);
  EXPECT_EQ(wide.check().max_ratio, c.check().max_ratio);
}

TEST_P(Bound, IsTightWhereNothingIsRounded) {
  // Zero weights owe nothing but zero.
  Case c = make(1, 16, 64, 64);
  std::fill(c.weight.qweight.begin(), c.weight.qweight.end(), std::uint8_t{0x88});
  compute(c);
  EXPECT_EQ(c.check().max_ratio, 0);
  from_float(GetParam(), c.d.data(), 3, 1e-3f);
  EXPECT_FALSE(c.check().passed);
}

INSTANTIATE_TEST_SUITE_P(Types, Bound, ::testing::Values(DataType::kBf16, DataType::kF16),
                         [](const auto& test) { return std::string(name_of(test.param)); });

TEST(BoundF16, AcceptsInfOnlyBeyondItsRange) {
  Case c = make_case(1, 16, 64, 64, DataType::kF16, 1, DataType::kF16);
  std::fill(c.weight.qweight.begin(), c.weight.qweight.end(), std::uint8_t{0xff});
  c.weight.scales = rounded_to(DataType::kF16, std::vector<float>(16, 1.0f));
  c.weight.view.scales = c.weight.scales.data();
  c.a = rounded_to(DataType::kF16, std::vector<float>(64, 200.0f));  // 7 * 64 * 200 = 89600
  compute(c);
  EXPECT_TRUE(std::isinf(to_float(DataType::kF16, c.d.data(), 0)));
  EXPECT_TRUE(c.check().passed);
  from_float(DataType::kF16, c.d.data(), 0, -std::numeric_limits<float>::infinity());
  EXPECT_FALSE(c.check().passed);
}

// Numbers over all of e4m3's range and past it: the nearest pass, also where they saturate, and two further on do not.
TEST(BoundE4m3, RefusesTwoNumbersFurther) {
  for (const float scale : {1.0f, 0.003f, 40.0f}) {
    Case c = make_case(20, 33, 100, 16, DataType::kF32, 1, DataType::kE4m3);  // sums of no error to speak of
    c.problem.epilogue.output_scale = true;
    Arguments operands;
    operands.output_scale = &scale;
    const auto check = [&] { return check_linear(c.problem, c.a.data(), c.weight.view, c.d.data(), operands); };
    c.problem.d_type = DataType::kF32;
    compute(c);
    const std::vector<std::uint8_t> sums = c.d;
    c.problem.d_type = DataType::kE4m3;
    c.d.resize(20 * 33);
    for (std::int64_t i = 0; i < 20 * 33; ++i) {
      from_float(DataType::kE4m3, c.d.data(), i, to_float(DataType::kF32, sums.data(), i) / scale);
    }
    EXPECT_TRUE(check().passed) << check().max_ratio;
    for (std::size_t i = 0; i < 20 * 33; i += 7) {
      const std::uint8_t code = c.d[i];
      const int magnitude = code & 0x7f;
      for (const int other : {magnitude - 2, magnitude + 2, 0x7f}) {
        if (other < 0 || (other > 0x7e && other != 0x7f)) continue;
        c.d[i] = static_cast<std::uint8_t>((code & 0x80) | other);
        EXPECT_FALSE(check().passed) << int{code} << " became " << other << " with scale " << scale;
      }
      c.d[i] = code;
      if (magnitude != 0x7e) continue;
      c.d[i] = static_cast<std::uint8_t>(code ^ 0x80);
      EXPECT_FALSE(check().passed) << "another sign";
      c.d[i] = code;
    }
  }
}

// Where it is certain that a number saturates, the largest is the only answer.
TEST(BoundE4m3, LeavesNoErrorBeyondTheRange) {
  const auto error = [](double value, double before) { return within_range({value, before}, DataType::kE4m3).error; };
  EXPECT_EQ(error(1e6, 1e4), 0);
  EXPECT_EQ(error(-1e6, 1e4), 0);
  EXPECT_EQ(error(500, 60), 8);
  EXPECT_EQ(error(440, 60), 60);
  EXPECT_EQ(error(440, 3), 3);
  EXPECT_EQ(error(std::numeric_limits<double>::infinity(), std::numeric_limits<double>::infinity()), 0);
  EXPECT_TRUE(std::isnan(within_range({std::nan(""), 1}, DataType::kE4m3).value));
  EXPECT_LT(store_bound(0, 448, DataType::kE4m3), 32);  // 416 is wrong
  EXPECT_EQ(store_bound(0, 0, DataType::kE4m3), 0x1p-10);
  EXPECT_EQ(store_bound(0, 0x1p-6, DataType::kE4m3), 0x1p-10);
}

TEST(BoundEmpty, PassesWithoutTokens) {
  Case c = make_case(0, 16, 64, 64, DataType::kBf16, 1, DataType::kBf16);
  EXPECT_TRUE(c.check().passed);
}

}  // namespace
}  // namespace machete::reference
