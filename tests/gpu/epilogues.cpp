#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <string>
#include <vector>

#include "reference/bound.h"
#include "tests/gpu/workbench.h"

// Named epilogues in every family of kernels, against the fp64 reference.
namespace machete::tests {
namespace {

using testing::DeviceBuffer;

constexpr Activation kActivations[] = {Activation::kNone, Activation::kRelu,     Activation::kSilu,
                                       Activation::kGelu, Activation::kGeluTanh, Activation::kSwiglu};

std::vector<std::uint8_t> on_host(const DeviceBuffer& buffer, std::size_t size) {
  std::vector<std::uint8_t> bytes(size);
  if (!bytes.empty()) require(buffer.download(bytes.data(), bytes.size()));
  return bytes;
}

std::vector<std::uint8_t> on_host(const DeviceBuffer& buffer) { return on_host(buffer, buffer.size()); }

class Epilogues : public GpuTest {
 protected:
  void SetUp() override {
    GpuTest::SetUp();
    if (IsSkipped() || HasFatalFailure()) return;
    require(token_scale_.resize(kMostM * 4));
    require(channel_scale_.resize(kMostN * 4));
    require(bias_.resize(kMostN * 2));
    require(residual_.resize(kMostM * kMostN * 2));
    require(output_scale_.resize(4));
    require(output_scale_.upload(&kOutputScale, 4));
  }

  void fill(const Problem& p) {
    const auto uniform = testing::ActivationFill::kUniform;
    require(testing::fill_activations(DataType::kF32, token_scale_.data(), 1, p.m, p.m, uniform, 11));
    require(testing::fill_activations(DataType::kF32, channel_scale_.data(), 1, p.n, p.n, uniform, 12));
    require(testing::fill_activations(p.scale_type(), bias_.data(), 1, p.n, p.n, uniform, 13));
    require(residual_.poison(nullptr));
    require(testing::fill_activations(p.scale_type(), residual_.data(), p.m, p.d_columns(), p.ldc, uniform, 14));
    require(cudaDeviceSynchronize(), "fill");
  }

  Arguments operands(const Epilogue& e, const void* token_scale, const void* channel_scale, const void* bias,
                     const void* residual, const float* output_scale) const {
    Arguments arguments;
    arguments.token_scale = e.token_scale ? static_cast<const float*>(token_scale) : nullptr;
    arguments.channel_scale = e.channel_scale ? static_cast<const float*>(channel_scale) : nullptr;
    arguments.bias = e.bias ? bias : nullptr;
    arguments.residual = e.residual ? residual : nullptr;
    arguments.output_scale = e.output_scale ? output_scale : nullptr;
    return arguments;
  }

  void try_case(const Case& c) {
    const Problem& p = c.problem;
    ASSERT_LE(p.m, kMostM);
    ASSERT_LE(p.n, kMostN);
    bench().prepare(c);
    bench().poison_output(c);
    fill(p);
    const Plan plan = require(bench().make_plan(c));
    Arguments arguments = operands(p.epilogue, token_scale_.data(), channel_scale_.data(), bias_.data(),
                                   residual_.data(), output_scale_.as<float>());
    arguments.a = bench().a().data();
    arguments.weight = &bench().packed();
    arguments.d = bench().d().data();
    const Status status =
        run(plan, arguments, bench().workspace().data(), bench().workspace().size(), Stream(bench().stream()));
    ASSERT_TRUE(status.ok()) << status.message() << "\n  " << c;
    require(cudaStreamSynchronize(bench().stream()), "run");
    ASSERT_TRUE(bench().guards_intact()) << c;

    const auto token_scale = on_host(token_scale_);
    const auto channel_scale = on_host(channel_scale_);
    const auto bias = on_host(bias_);
    const auto residual = on_host(residual_, static_cast<std::size_t>(p.m * p.ldc * 2));
    const auto a = on_host(bench().a());
    const auto q = on_host(bench().qweight());
    const auto scales = on_host(bench().scales());
    QuantizedWeight weight = bench().weight();
    weight.qweight = q.data();
    weight.scales = scales.data();
    const std::vector<unsigned char> d = bench().output();
    const auto report = reference::check_linear(
        p, a.data(), weight, d.data(),
        operands(p.epilogue, token_scale.data(), channel_scale.data(), bias.data(), residual.data(), &kOutputScale));
    ASSERT_TRUE(report.passed) << name_of(p.epilogue) << " to " << name_of(p.d_type) << ": error/bound "
                               << report.max_ratio << " at m=" << report.worst_m << " n=" << report.worst_n << "\n  "
                               << c;
  }

  /// aligned: the rows of D and of the residual begin on 16 bytes, which lets both take faster ways.
  static Case case_of(DataType a_type, DataType d_type, std::int64_t m, std::int64_t n, const Epilogue& epilogue,
                      bool aligned, std::int64_t k = 320) {
    Case c{make_problem(a_type, m, n, k, 64)};
    c.problem.d_type = d_type;
    c.problem.epilogue = epilogue;
    c.problem.epilogue.output_scale = d_type == DataType::kE4m3;
    const std::int64_t columns = c.problem.d_columns();
    c.problem.ldd = aligned ? (columns + 7) / 8 * 8 + 8 : columns + 3;
    c.problem.ldc = aligned ? (columns + 7) / 8 * 8 + 16 : columns + 5;
    return c;
  }

  static constexpr std::int64_t kMostM = 300, kMostN = 18000;
  static constexpr float kOutputScale = 0.003f;  // outputs of about 1 fill e4m3's range; some saturate
  DeviceBuffer token_scale_, channel_scale_, bias_, residual_, output_scale_;
};

Epilogue steps(unsigned bits, Activation activation) {
  Epilogue e;
  e.token_scale = (bits & 1u) != 0;
  e.channel_scale = (bits & 2u) != 0;
  e.bias = (bits & 4u) != 0;
  e.residual = (bits & 8u) != 0;
  e.activation = activation;
  return e;
}

// The types of output that this build has for activations of a type.
std::vector<DataType> outputs_of(DataType a_type) {
  std::vector<DataType> types = {make_problem(a_type, 1, 1, 1).d_type, DataType::kF32, DataType::kE4m3};
  if (bits_of(a_type) == 8 && served({WeightType::kU4b8, a_type, DataType::kF16})) types.push_back(DataType::kF16);
  return types;
}

TEST_F(Epilogues, EveryCombination) {
  for (const DataType a_type : {DataType::kBf16, DataType::kF16, DataType::kS8, DataType::kE4m3}) {
    for (const DataType d_type : outputs_of(a_type)) {
      for (const Activation activation : kActivations) {
        for (unsigned bits = 0; bits < 16; ++bits) {
          for (const std::int64_t m : {3, 130}) {
            try_case(case_of(a_type, d_type, m, 202, steps(bits, activation), bits % 2 == 0));
          }
        }
      }
    }
  }
}

TEST_F(Epilogues, EverySchedule) {
  for (const DataType a_type : {DataType::kBf16, DataType::kF16, DataType::kS8, DataType::kE4m3}) {
    for (const Epilogue& epilogue :
         {steps(4, Activation::kNone), steps(15, Activation::kGelu), steps(12, Activation::kSwiglu)}) {
      for (const DataType d_type : outputs_of(a_type)) {
        for (const std::int64_t m : {1, 8, 13, 33, 64, 97, 290}) {
          for (const std::int64_t n : {416, 180}) {
            Case c = case_of(a_type, d_type, m, n, epilogue, n == 416);
            for (const std::string& schedule : schedules_of(c.problem)) {
              c.schedule = schedule;
              try_case(c);
            }
          }
        }
      }
    }
  }
}

// CTAs that take several tiles, each with its part of the residual in the ring.
TEST_F(Epilogues, ManyTiles) {
  for (const DataType a_type : {DataType::kBf16, DataType::kS8}) {
    for (const bool aligned : {true, false}) {
      Case c =
          case_of(a_type, make_problem(a_type, 1, 1, 1).d_type, 290, 17920, steps(12, Activation::kSilu), aligned, 128);
      for (const std::string& schedule : schedules_of(c.problem)) {
        c.schedule = schedule;
        try_case(c);
      }
    }
  }
}

// Outputs of e4m3 without a step, through every schedule: sums of small integers, many of which saturate, are exact but
// for their one rounding. Rows that start anywhere, and D that ends within a piece of 16 bytes.
TEST_F(Epilogues, PlainE4m3) {
  for (const DataType a_type : kActivationTypes) {
    for (const std::int64_t m : {1, 7, 40, 130}) {
      for (const std::int64_t n : {1, 67, 200, 416}) {
        for (const std::int64_t gap : {0, 3, 16}) {
          Case c{make_problem(a_type, m, n, 1024)};
          c.problem.d_type = DataType::kE4m3;
          c.problem.ldd = n + gap;
          c.activations = testing::ActivationFill::kIntegers;
          c.scales = testing::ScaleFill::kPowersOfTwo;
          for (const std::string& schedule : schedules_of(c.problem)) {
            c.schedule = schedule;
            ASSERT_TRUE(bench().try_case(c, Workbench::Check::kExact));
          }
        }
      }
    }
  }
}

// The residual may be D itself.
TEST_F(Epilogues, ResidualInPlace) {
  Case c = case_of(DataType::kBf16, DataType::kBf16, 70, 128, steps(8, Activation::kNone), true);
  c.problem.ldd = c.problem.ldc = 128;
  bench().prepare(c);
  fill(c.problem);
  const Plan plan = require(bench().make_plan(c));
  std::vector<std::vector<unsigned char>> results;
  for (const bool in_place : {false, true}) {
    bench().poison_output(c);
    if (in_place) {
      require(cudaMemcpy(bench().d().data(), residual_.data(), bench().d().size(), cudaMemcpyDeviceToDevice), "copy");
    }
    Arguments arguments = bench().arguments();
    arguments.residual = in_place ? bench().d().data() : residual_.data();
    require(run(plan, arguments, bench().workspace().data(), bench().workspace().size(), Stream(bench().stream())));
    results.push_back(bench().output());
  }
  EXPECT_EQ(results[0], results[1]);
}

}  // namespace
}  // namespace machete::tests
