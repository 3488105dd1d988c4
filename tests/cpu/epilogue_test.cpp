// Epilogues on the CPU, as users run them: every step alone and all combinations within the bound, known values, and
// errors for what does not go together. The check itself must notice when a step is missing.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <utility>

#include "machete/machete.h"
#include "reference/bound.h"
#include "tests/cpu/reference_case.h"

namespace machete {
namespace {

using reference::OwnedWeight;
using reference::rounded_to;
using ::testing::HasSubstr;

constexpr Activation kActivations[] = {Activation::kNone, Activation::kRelu,     Activation::kSilu,
                                       Activation::kGelu, Activation::kGeluTanh, Activation::kSwiglu};

std::vector<Epilogue> all_epilogues() {
  std::vector<Epilogue> epilogues;
  for (const Activation activation : kActivations) {
    for (int steps = 0; steps < 16; ++steps) {
      epilogues.push_back({(steps & 1) != 0, (steps & 2) != 0, (steps & 4) != 0, activation, (steps & 8) != 0});
    }
  }
  return epilogues;
}

/// A linear with everything an epilogue can read.
struct Case {
  OwnedWeight weight;
  Problem problem;
  std::vector<std::uint8_t> a, bias, residual, d;
  std::vector<float> token_scale, channel_scale;
  float output_scale = 0.003f;  // outputs of about 1 fill e4m3's range; some saturate

  Case(std::int64_t m, std::int64_t n, std::int64_t k, const Epilogue& epilogue, unsigned seed,
       DataType a_type = DataType::kBf16, reference::Kind kind = {}) {
    weight = reference::random_weight(n, k, 32, seed, kind);
    problem = reference::problem_of(m, weight.view, a_type, a_type);
    problem.epilogue = epilogue;
    problem.ldd = problem.d_columns() + 3;
    problem.ldc = problem.d_columns() + 5;
    a = rounded_to(a_type, reference::normal_values(m * k, seed + 1));
    bias = rounded_to(a_type, reference::normal_values(n, seed + 2));
    residual = rounded_to(a_type, reference::normal_values(m * problem.ldc, seed + 3));
    token_scale = reference::normal_values(m, seed + 4);
    channel_scale = reference::normal_values(n, seed + 5);
  }

  Arguments arguments(const PackedWeight* packed) {
    Arguments x = {a.data(), packed, d.data()};
    if (problem.epilogue.token_scale) x.token_scale = token_scale.data();
    if (problem.epilogue.channel_scale) x.channel_scale = channel_scale.data();
    if (problem.epilogue.bias) x.bias = bias.data();
    if (problem.epilogue.residual) x.residual = residual.data();
    if (problem.epilogue.output_scale) x.output_scale = &output_scale;
    return x;
  }

  PackedWeight pack() const {
    PrepackOptions options;
    options.device = Device::cpu();
    options.scale_type = problem.a_type;
    options.swiglu = problem.epilogue.activation == Activation::kSwiglu;
    const auto packed = prepack(weight.view, options);
    EXPECT_TRUE(packed.ok()) << packed.status().message();
    return packed.ok() ? *packed : PackedWeight();
  }

  Status run() {
    d = rounded_to(problem.d_type, std::vector<float>(static_cast<std::size_t>(problem.m * problem.ldd), -12345.0f));
    const PackedWeight packed = pack();
    const auto plan = machete::plan(problem, on_cpu());
    if (!plan.ok()) return plan.status();
    return machete::run(*plan, arguments(&packed), nullptr, 0);
  }

  reference::ErrorReport check(Problem by) {
    by.lda = problem.lda;
    by.ldd = problem.ldd;
    by.ldc = problem.ldc;
    Case given = *this;  // everything, whatever the epilogue by which it is checked reads
    given.problem = by;
    return reference::check_linear(by, a.data(), weight.view, d.data(), given.arguments(nullptr));
  }
  reference::ErrorReport check() { return check(problem); }

  static PlanOptions on_cpu() {
    PlanOptions options;
    options.device = Device::cpu();
    return options;
  }
};

TEST(Epilogue, NamesAreReadBack) {
  for (Epilogue epilogue : all_epilogues()) {
    for (const bool output_scale : {false, true}) {
      epilogue.output_scale = output_scale;
      const auto parsed = parse_epilogue(name_of(epilogue));
      ASSERT_TRUE(parsed.ok()) << parsed.status().message();
      EXPECT_EQ(name_of(*parsed), name_of(epilogue));
      EXPECT_EQ(parsed->output_scale, output_scale);
      EXPECT_EQ(parsed->plain(), name_of(epilogue) == "none");
    }
  }
  EXPECT_EQ(name_of(*parse_epilogue("output_scale,bias+residual")), "bias+residual+output_scale");
  EXPECT_EQ(parse_epilogue("bias+out_scale").status().message(),
            "epilogue 'bias+out_scale' has 'out_scale', which is not known; use none, or some of token_scale, "
            "channel_scale, bias, relu, silu, gelu, gelu_tanh, swiglu, residual, output_scale");
  EXPECT_EQ(name_of(*parse_epilogue("residual,silu,bias")), "bias+silu+residual");
  EXPECT_EQ(name_of(Epilogue{}), "none");
  EXPECT_THAT(parse_epilogue("bias+swish").status().message(), HasSubstr("'swish', which is not known"));
  EXPECT_THAT(parse_epilogue("bias+swish").status().message(), HasSubstr("gelu_tanh"));
  EXPECT_THAT(parse_epilogue("silu+gelu").status().message(), HasSubstr("two activations"));
  EXPECT_THAT(parse_epilogue("bias+bias").status().message(), HasSubstr("twice"));
  EXPECT_FALSE(parse_epilogue("").ok());
  EXPECT_FALSE(parse_epilogue("bias+").ok());
}

TEST(Epilogue, EveryCombinationStaysWithinTheBound) {
  unsigned seed = 0;
  for (const Epilogue& epilogue : all_epilogues()) {
    for (const DataType a_type : {DataType::kBf16, DataType::kF16}) {
      for (const DataType d_type : {a_type, DataType::kF32, DataType::kE4m3}) {
        const std::int64_t n = epilogue.activation == Activation::kSwiglu ? 70 : 67;
        Case c(5, n, 100, epilogue, ++seed, a_type);
        c.problem.d_type = d_type;
        c.problem.epilogue.output_scale = d_type == DataType::kE4m3;
        const Status status = c.run();
        ASSERT_TRUE(status.ok()) << status.message();
        const auto report = c.check();
        ASSERT_TRUE(report.passed) << name_of(epilogue) << ": " << report.max_ratio << " at " << report.worst_m << ", "
                                   << report.worst_n;
        for (std::int64_t m = 0; m < 5; ++m) {
          for (std::int64_t i = c.problem.d_columns(); i < c.problem.ldd && (m + 1) * c.problem.ldd > i; ++i) {
            std::uint32_t poison = 0;
            reference::from_float(d_type, &poison, 0, -12345.0f);
            ASSERT_EQ(reference::to_float(d_type, c.d.data(), m * c.problem.ldd + i),
                      reference::to_float(d_type, &poison, 0))
                << "beyond D's columns";
          }
        }
      }
    }
  }
}

TEST(Epilogue, SwigluPairsRowsOfAnyCountAndType) {
  for (const reference::Kind& kind : reference::all_kinds()) {
    for (const std::int64_t half : {1, 7, 8, 9, 32, 33, 100}) {
      Case c(3, 2 * half, 80, {false, true, true, Activation::kSwiglu, true}, 7, DataType::kBf16, kind);
      const Status status = c.run();
      ASSERT_TRUE(status.ok()) << status.message();
      ASSERT_TRUE(c.check().passed) << name_of(kind) << ", " << half;
      const auto unpacked = unpack(c.pack());
      ASSERT_TRUE(unpacked.ok());
      ASSERT_EQ(unpacked->qweight, c.weight.qweight) << name_of(kind) << ", " << half;
      ASSERT_EQ(unpacked->scales, c.weight.scales);
    }
  }
}

TEST(Epilogue, TheCheckMissesNoStep) {
  for (const Epilogue& epilogue : all_epilogues()) {
    if (epilogue.activation == Activation::kSwiglu) continue;  // its D has another shape
    for (const DataType d_type : {DataType::kBf16, DataType::kE4m3}) {
      Case c(4, 67, 100, epilogue, 3);
      c.problem.d_type = d_type;
      c.problem.epilogue.output_scale = d_type == DataType::kE4m3;
      ASSERT_TRUE(c.run().ok());
      ASSERT_TRUE(c.check().passed);
      const auto fails_as = [&](const Epilogue& other) {
        Problem by = c.problem;
        by.epilogue = other;
        EXPECT_FALSE(c.check(by).passed) << name_of(epilogue) << " passes for " << name_of(other);
      };
      for (bool Epilogue::*step :
           {&Epilogue::token_scale, &Epilogue::channel_scale, &Epilogue::bias, &Epilogue::residual}) {
        Epilogue other = c.problem.epilogue;
        other.*step = !(epilogue.*step);
        fails_as(other);
      }
      for (const Activation activation : {Activation::kNone, Activation::kRelu, Activation::kSilu, Activation::kGelu}) {
        Epilogue other = c.problem.epilogue;
        other.activation = activation;
        // The two gelus differ by less than bf16 shows.
        const bool gelus = epilogue.activation == Activation::kGeluTanh && activation == Activation::kGelu;
        if (activation != epilogue.activation && !gelus) fails_as(other);
      }
      if (d_type != DataType::kE4m3) continue;
      fails_as(epilogue);
      for (const float wrong : {1.125f, 0.875f, -1.0f}) {
        Case other = c;
        other.output_scale *= wrong;
        EXPECT_FALSE(other.check().passed) << name_of(epilogue) << " passes with its output scale times " << wrong;
      }
    }
  }
}

// The nearest of e4m3's numbers, looked for among all; the even code of two.
std::uint8_t nearest_e4m3(float value) {
  const auto distance = [value](int code) {
    return std::abs(static_cast<double>(convert::kE4m3Values[static_cast<std::size_t>(code)]) -
                    static_cast<double>(std::clamp(value, -448.0f, 448.0f)));
  };
  const int sign = std::signbit(value) ? 0x80 : 0;
  int best = sign;
  for (int code = sign; code < sign + 0x7f; ++code) {
    if (distance(code) < distance(best) || (distance(code) == distance(best) && code % 2 == 0)) best = code;
  }
  return static_cast<std::uint8_t>(best);
}

// A weight of one element, 1.
struct OneWeight {
  std::vector<std::uint8_t> code = std::vector<std::uint8_t>(8, 0x99);  // 16 codes of 9: 1
  std::vector<std::uint8_t> scale = rounded_to(DataType::kBf16, {1.0f});
  QuantizedWeight weight;

  OneWeight() {
    weight.n = 1;
    weight.k = 1;
    weight.group_size = -1;
    weight.qweight = code.data();
    weight.scales = scale.data();
  }
  OneWeight(const OneWeight&) = delete;  // the weight points into it
  OneWeight& operator=(const OneWeight&) = delete;

  Result<PackedWeight> packed() const {
    PrepackOptions options;
    options.device = Device::cpu();
    return prepack(weight, options);
  }
};

// A weight of 1 and one activation a token: every number of e4m3, all halfway between two and close to that, what lies
// beyond and below them all.
TEST(Epilogue, OutputsOfE4m3AreTheNearestAndSaturate) {
  std::vector<float> values = {0.0f, -0.0f, 1e30f, -1e30f, 449, 464, 480, -500, 0x1p-10f, 0x1p-11f, -0x1p-120f};
  for (int code = 0; code < 0x7e; ++code) {
    const float low = convert::kE4m3Values[static_cast<std::size_t>(code)];
    const float middle = (low + convert::kE4m3Values[static_cast<std::size_t>(code + 1)]) / 2;
    for (const float x : {low, middle, middle * (1 - 0x1p-7f), middle * (1 + 0x1p-7f)})
      values.insert(values.end(), {x, -x});
  }
  const std::size_t numbers = values.size();
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  values.insert(values.end(), {kInfinity, -kInfinity, std::numeric_limits<float>::quiet_NaN()});
  const std::vector<std::uint8_t> a = rounded_to(DataType::kBf16, values);
  const OneWeight one;
  const auto packed = one.packed();
  ASSERT_TRUE(packed.ok());
  Problem problem =
      reference::problem_of(static_cast<std::int64_t>(values.size()), one.weight, DataType::kBf16, DataType::kE4m3);
  for (const float scale : {0.0f, 1.0f, 3.0f, -0.7f, 0x1p-100f, 0x1p100f}) {  // 0: without one
    problem.epilogue.output_scale = scale != 0;
    const float factor = scale != 0 ? 1 / scale : 1;
    std::vector<std::uint8_t> d(values.size(), 0xff);
    Arguments arguments = {a.data(), &*packed, d.data()};
    if (scale != 0) arguments.output_scale = &scale;
    const auto plan = machete::plan(problem, Case::on_cpu());
    ASSERT_TRUE(plan.ok()) << plan.status().message();
    ASSERT_TRUE(machete::run(*plan, arguments, nullptr, 0).ok());
    for (std::size_t i = 0; i < numbers; ++i) {
      // Codes of zero may have either sign, as sums do.
      const float x = reference::to_float(DataType::kBf16, a.data(), static_cast<std::int64_t>(i)) * factor;
      ASSERT_EQ(convert::kE4m3Values[d[i]], convert::kE4m3Values[nearest_e4m3(x)]) << x << " with scale " << scale;
    }
    EXPECT_EQ(d[numbers], scale < 0 ? 0xfe : 0x7e) << "infinity";
    EXPECT_EQ(d[numbers + 1], scale < 0 ? 0x7e : 0xfe) << "-infinity";
    EXPECT_EQ(d[numbers + 2] & 0x7f, 0x7f) << "NaN";
  }
}

TEST(Epilogue, WideAndNarrowOutputsLeaveScalesOf16Bits) {
  for (const DataType d_type : {DataType::kF32, DataType::kE4m3}) {
    Problem problem;
    problem.d_type = d_type;
    for (const auto& [a_type, scale_type] : {std::pair(DataType::kF16, DataType::kF16),
                                             {DataType::kBf16, DataType::kBf16},
                                             {DataType::kS8, DataType::kBf16},
                                             {DataType::kE4m3, DataType::kBf16}}) {
      problem.a_type = a_type;
      EXPECT_EQ(problem.scale_type(), scale_type) << name_of(a_type) << " to " << name_of(d_type);
    }
  }
}

// Whatever the epilogue: what an output of f32 has, times the reciprocal of the scale, rounded.
TEST(Epilogue, OutputsOfE4m3AreThoseOfF32Rounded) {
  for (const Epilogue& epilogue : all_epilogues()) {
    Case c(5, 70, 100, epilogue, 17);
    c.problem.d_type = DataType::kF32;
    ASSERT_TRUE(c.run().ok());
    const std::vector<std::uint8_t> exact = c.d;
    c.problem.d_type = DataType::kE4m3;
    c.problem.epilogue.output_scale = true;
    ASSERT_TRUE(c.run().ok());
    for (std::int64_t m = 0; m < 5; ++m) {
      for (std::int64_t i = 0; i < c.problem.d_columns(); ++i) {
        const std::int64_t at = m * c.problem.ldd + i;
        const float x = reference::to_float(DataType::kF32, exact.data(), at) * (1 / c.output_scale);
        ASSERT_EQ(int{c.d[static_cast<std::size_t>(at)]}, int{nearest_e4m3(x)}) << name_of(epilogue) << ": " << x;
      }
    }
  }
}

// One weight of value 1 and its activation: what functions give at well-known places.
TEST(Epilogue, FunctionsAreWhatTheirNamesSay) {
  const auto value = [](Activation activation, float x) {
    const OneWeight one;
    const auto packed = one.packed();
    Problem problem = reference::problem_of(1, one.weight, DataType::kBf16, DataType::kF32);
    problem.epilogue.activation = activation;
    const auto plan = machete::plan(problem, Case::on_cpu());
    const std::vector<std::uint8_t> a = rounded_to(DataType::kBf16, {x});
    float d = -1;
    EXPECT_TRUE(machete::run(*plan, {a.data(), &*packed, &d}, nullptr, 0).ok());
    return d;
  };
  EXPECT_EQ(value(Activation::kRelu, -2), 0);
  EXPECT_EQ(value(Activation::kRelu, 2), 2);
  EXPECT_NEAR(value(Activation::kSilu, 1), 0.7310585786, 1e-7);
  EXPECT_NEAR(value(Activation::kSilu, -2), -0.2384058440, 1e-7);
  EXPECT_EQ(value(Activation::kSilu, -200), 0);
  EXPECT_NEAR(value(Activation::kGelu, 1), 0.8413447461, 1e-7);
  EXPECT_NEAR(value(Activation::kGelu, -1), -0.1586552539, 1e-7);
  EXPECT_NEAR(value(Activation::kGeluTanh, 1), 0.8411919906, 1e-7);
  EXPECT_NEAR(value(Activation::kGeluTanh, -1), -0.1588080094, 1e-7);
}

TEST(Epilogue, ResidualMayBeTheOutputItself) {
  Case c(4, 67, 100, {false, false, true, Activation::kGelu, true}, 9);
  c.problem.ldc = c.problem.ldd;
  ASSERT_TRUE(c.run().ok());
  const auto apart = c.d;
  c.d = c.residual;
  Arguments arguments = c.arguments(nullptr);
  const PackedWeight packed = c.pack();
  arguments.weight = &packed;
  arguments.residual = arguments.d;
  const auto plan = machete::plan(c.problem, Case::on_cpu());
  ASSERT_TRUE(plan.ok());
  ASSERT_TRUE(machete::run(*plan, arguments, nullptr, 0).ok());
  for (std::int64_t m = 0; m < 4; ++m) {
    const auto row = static_cast<std::size_t>(m * c.problem.ldd * 2);
    EXPECT_EQ(std::memcmp(c.d.data() + row, apart.data() + row, 67 * 2), 0);
  }
  arguments.residual = c.d.data() + 2;
  EXPECT_THAT(machete::run(*plan, arguments, nullptr, 0).message(), HasSubstr("overlap"));
}

TEST(Epilogue, WhatDoesNotGoTogetherIsRefused) {
  Case c(4, 66, 100, {true, true, true, Activation::kNone, true, true}, 1);
  c.problem.d_type = DataType::kE4m3;
  const PackedWeight packed = c.pack();
  c.d.resize(static_cast<std::size_t>(4 * c.problem.ldd * 2));
  const auto run_with = [&](const Problem& problem, const Arguments& arguments) {
    const auto plan = machete::plan(problem, Case::on_cpu());
    EXPECT_TRUE(plan.ok()) << plan.status().message();
    return plan.ok() ? machete::run(*plan, arguments, nullptr, 0).message() : "";
  };
  const Arguments all = c.arguments(&packed);
  EXPECT_EQ(run_with(c.problem, all), "");
  for (const auto& [name, forget] : std::vector<std::pair<std::string, void (*)(Arguments&)>>{
           {"token_scale", [](Arguments& x) { x.token_scale = nullptr; }},
           {"channel_scale", [](Arguments& x) { x.channel_scale = nullptr; }},
           {"bias", [](Arguments& x) { x.bias = nullptr; }},
           {"residual", [](Arguments& x) { x.residual = nullptr; }},
           {"output_scale", [](Arguments& x) { x.output_scale = nullptr; }}}) {
    Arguments some = all;
    forget(some);
    EXPECT_THAT(run_with(c.problem, some), HasSubstr(name + " is null"));
  }
  Problem plain = c.problem;
  plain.epilogue = {};
  EXPECT_THAT(run_with(plain, all), HasSubstr("token_scale is given, but the plan's epilogue, none, has no such step"));
  Arguments scaled = {c.a.data(), &packed, c.d.data()};
  scaled.output_scale = &c.output_scale;
  EXPECT_EQ(run_with(plain, scaled),
            "output_scale is given, but the plan's epilogue, none, has no such step; plan with it, or pass null");

  // Of 1 byte D may start anywhere, and is never the residual itself.
  Arguments moved = all;
  moved.d = c.d.data() + 1;
  EXPECT_EQ(run_with(c.problem, moved), "");
  Problem same_strides = c.problem;
  same_strides.ldc = same_strides.ldd;
  moved.residual = moved.d = c.residual.data();
  EXPECT_THAT(run_with(same_strides, moved), HasSubstr("residual"));
  EXPECT_THAT(run_with(same_strides, moved), HasSubstr("overlap; give the output memory of its own"));
  moved = all;
  moved.output_scale = reinterpret_cast<const float*>(c.d.data() + 4);
  EXPECT_THAT(run_with(c.problem, moved), HasSubstr("overlap; give the output memory of its own"));
  moved.output_scale = reinterpret_cast<const float*>(reinterpret_cast<const char*>(c.token_scale.data()) + 2);
  EXPECT_THAT(run_with(c.problem, moved),
              HasSubstr("must be a multiple of 4 bytes; copy the tensor to aligned memory"));

  Problem swiglu = plain;
  swiglu.epilogue.activation = Activation::kSwiglu;
  EXPECT_THAT(run_with(swiglu, {c.a.data(), &packed, c.d.data()}), HasSubstr("prepack the weight with swiglu=true"));
  Case paired(4, 66, 100, swiglu.epilogue, 1);
  const PackedWeight pairs = paired.pack();
  EXPECT_THAT(run_with(plain, {c.a.data(), &pairs, c.d.data()}), HasSubstr("packed for the epilogue swiglu"));

  const auto refusal = [](Problem problem) {
    const auto plan = machete::plan(problem, Case::on_cpu());
    return plan.ok() ? "accepted" : plan.status().message();
  };
  Problem wide = c.problem;
  wide.d_type = DataType::kBf16;
  EXPECT_EQ(refusal(wide),
            "output_scale with d_type=bf16: only outputs of e4m3 have one; take that d_type, or plan without the step");
  wide.d_type = DataType::kS8;
  EXPECT_EQ(refusal(wide), "d_type 6 is not known; use bf16, f16, f32 or e4m3");
  Problem odd = swiglu;
  odd.n = 65;
  EXPECT_THAT(refusal(odd), HasSubstr("N=65 must be even for swiglu"));
  Problem narrow = c.problem;
  narrow.ldc = 65;
  EXPECT_THAT(refusal(narrow), HasSubstr("ldc=65 must be at least D's columns, 66"));
  narrow = swiglu;
  narrow.ldd = 32;
  EXPECT_THAT(refusal(narrow), HasSubstr("ldd=32 must be at least D's columns, 33"));
  narrow.ldd = 33;
  EXPECT_EQ(refusal(narrow), "accepted");
  Problem unknown = plain;
  unknown.epilogue.activation = static_cast<Activation>(17);
  EXPECT_THAT(refusal(unknown), HasSubstr("activation 17"));
  PrepackOptions options;
  options.device = Device::cpu();
  options.swiglu = true;
  OwnedWeight odd_weight = reference::random_weight(65, 64, 64, 1);
  EXPECT_THAT(prepack(odd_weight.view, options).status().message(), HasSubstr("N=65 must be even"));
}

}  // namespace
}  // namespace machete
