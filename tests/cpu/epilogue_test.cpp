// Epilogues on the CPU, as users run them: every step alone and all combinations within the bound, known values, and
// errors for what does not go together. The check itself must notice when a step is missing.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <string>

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
  for (const Epilogue& epilogue : all_epilogues()) {
    const auto parsed = parse_epilogue(name_of(epilogue));
    ASSERT_TRUE(parsed.ok()) << parsed.status().message();
    EXPECT_EQ(name_of(*parsed), name_of(epilogue));
  }
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
      for (const DataType d_type : {a_type, DataType::kF32}) {
        const std::int64_t n = epilogue.activation == Activation::kSwiglu ? 70 : 67;
        Case c(5, n, 100, epilogue, ++seed, a_type);
        c.problem.d_type = d_type;
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
    Case c(4, 67, 100, epilogue, 3);
    ASSERT_TRUE(c.run().ok());
    const auto fails_as = [&](const Epilogue& other) {
      Problem by = c.problem;
      by.epilogue = other;
      EXPECT_FALSE(c.check(by).passed) << name_of(epilogue) << " passes for " << name_of(other);
    };
    for (bool Epilogue::*step :
         {&Epilogue::token_scale, &Epilogue::channel_scale, &Epilogue::bias, &Epilogue::residual}) {
      Epilogue other = epilogue;
      other.*step = !(epilogue.*step);
      fails_as(other);
    }
    for (const Activation activation : {Activation::kNone, Activation::kRelu, Activation::kSilu, Activation::kGelu}) {
      Epilogue other = epilogue;
      other.activation = activation;
      // The two gelus differ by less than bf16 shows.
      const bool gelus = epilogue.activation == Activation::kGeluTanh && activation == Activation::kGelu;
      if (activation != epilogue.activation && !gelus) fails_as(other);
    }
  }
}

// One weight of value 1 and its activation: what functions give at well-known places.
TEST(Epilogue, FunctionsAreWhatTheirNamesSay) {
  const auto value = [](Activation activation, float x) {
    const std::vector<std::uint8_t> code(8, 0x99);  // 16 codes of 9: 1
    const std::vector<std::uint8_t> scale = rounded_to(DataType::kBf16, {1.0f});
    QuantizedWeight weight;
    weight.n = 1;
    weight.k = 1;
    weight.group_size = -1;
    weight.qweight = code.data();
    weight.scales = scale.data();
    PrepackOptions options;
    options.device = Device::cpu();
    const auto packed = prepack(weight, options);
    Problem problem = reference::problem_of(1, weight, DataType::kBf16, DataType::kF32);
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
  Case c(4, 66, 100, {true, true, true, Activation::kNone, true}, 1);
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
           {"residual", [](Arguments& x) { x.residual = nullptr; }}}) {
    Arguments some = all;
    forget(some);
    EXPECT_THAT(run_with(c.problem, some), HasSubstr(name + " is null"));
  }
  Problem plain = c.problem;
  plain.epilogue = {};
  EXPECT_THAT(run_with(plain, all), HasSubstr("token_scale is given, but the plan's epilogue, none, has no such step"));

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
