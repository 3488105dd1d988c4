#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "machete/tokens.h"
#include "tests/gpu/workbench.h"

// Bad input gets its error before anything is launched or written.
namespace machete::tests {
namespace {

class ArgumentErrors : public GpuTest {
 protected:
  void SetUp() override {
    GpuTest::SetUp();
    if (IsSkipped() || HasFatalFailure()) return;
    case_.problem = make_problem(DataType::kBf16, 20, 256, 4096);
    case_.problem.lda = 4097;  // needs a workspace, to align the rows of A
    // The right arguments are accepted; what follows differs from them in one thing each.
    ASSERT_TRUE(bench().try_case(case_));
    ASSERT_GT(right_plan().workspace_size(), 0u);
    bench().poison_output(case_);
  }

  Plan right_plan() { return require(bench().make_plan(case_)); }

  // Runs, and expects an error that leaves D as it was.
  void expect_refused(const Plan& plan, const Arguments& arguments, void* workspace, std::size_t size,
                      std::initializer_list<StatusCode> codes, const char* what) {
    const Status status = run(plan, arguments, workspace, size, Stream(bench().stream()));
    ASSERT_EQ(cudaStreamSynchronize(bench().stream()), cudaSuccess) << what;
    EXPECT_EQ(cudaGetLastError(), cudaSuccess) << what << " leaves a CUDA error behind";
    EXPECT_FALSE(status.ok()) << what << " was accepted";
    EXPECT_TRUE(std::find(codes.begin(), codes.end(), status.code()) != codes.end())
        << what << ": code " << static_cast<int>(status.code()) << ", " << status.message();
    EXPECT_FALSE(status.message().empty()) << what;
    const std::vector<unsigned char> d = bench().output();
    EXPECT_TRUE(std::all_of(d.begin(), d.end(), [](unsigned char byte) { return byte == 0xFF; }))
        << what << ": D was written";
    EXPECT_TRUE(bench().guards_intact()) << what;
  }
  void expect_refused(const Arguments& arguments, std::initializer_list<StatusCode> codes, const char* what) {
    const Plan plan = right_plan();
    expect_refused(plan, arguments, bench().workspace().data(), bench().workspace().size(), codes, what);
  }

  Case case_;
};

void* offset(void* pointer, std::ptrdiff_t bytes) { return static_cast<char*>(pointer) + bytes; }
const void* offset(const void* pointer, std::ptrdiff_t bytes) { return static_cast<const char*>(pointer) + bytes; }

TEST_F(ArgumentErrors, NullPointers) {
  Arguments arguments = bench().arguments();
  arguments.a = nullptr;
  expect_refused(arguments, {StatusCode::kInvalidArgument}, "a null A");
  arguments = bench().arguments();
  arguments.d = nullptr;
  expect_refused(arguments, {StatusCode::kInvalidArgument}, "a null D");
  arguments = bench().arguments();
  arguments.weight = nullptr;
  expect_refused(arguments, {StatusCode::kInvalidArgument}, "a null weight");
  const PackedWeight empty;
  arguments.weight = &empty;
  expect_refused(arguments, {StatusCode::kInvalidArgument, StatusCode::kIncompatible}, "an empty weight");
}

TEST_F(ArgumentErrors, MisalignedPointers) {
  for (const std::ptrdiff_t bytes : {1, 2, 8}) {
    Arguments arguments = bench().arguments();
    arguments.a = offset(arguments.a, bytes);
    expect_refused(arguments, {StatusCode::kInvalidArgument}, "a misaligned A");
    arguments = bench().arguments();
    arguments.d = offset(arguments.d, bytes);
    expect_refused(arguments, {StatusCode::kInvalidArgument}, "a misaligned D");
  }
  const Plan plan = right_plan();
  testing::DeviceBuffer larger = require(testing::DeviceBuffer::create(plan.workspace_size() + 128));
  expect_refused(plan, bench().arguments(), offset(larger.data(), 64), plan.workspace_size(),
                 {StatusCode::kInvalidArgument}, "a misaligned workspace");
}

TEST_F(ArgumentErrors, Workspaces) {
  const Plan plan = right_plan();
  const std::size_t size = plan.workspace_size();
  void* const workspace = bench().workspace().data();
  expect_refused(plan, bench().arguments(), workspace, size - 1, {StatusCode::kInvalidArgument},
                 "a workspace one byte short");
  expect_refused(plan, bench().arguments(), workspace, 0, {StatusCode::kInvalidArgument}, "a workspace of no bytes");
  expect_refused(plan, bench().arguments(), nullptr, size, {StatusCode::kInvalidArgument}, "a null workspace");
  std::vector<unsigned char> host(size + 256);
  const auto address = reinterpret_cast<std::uintptr_t>(host.data());
  void* const aligned = host.data() + (128 - address % 128) % 128;
  expect_refused(plan, bench().arguments(), aligned, size, {StatusCode::kInvalidArgument}, "a workspace on the CPU");
}

TEST_F(ArgumentErrors, CpuPointers) {
  alignas(128) static unsigned char host[20 * 4097 * 2];
  Arguments arguments = bench().arguments();
  arguments.a = host;
  expect_refused(arguments, {StatusCode::kInvalidArgument}, "an A on the CPU");
  arguments = bench().arguments();
  arguments.d = host;
  expect_refused(arguments, {StatusCode::kInvalidArgument}, "a D on the CPU");
  EXPECT_TRUE(std::all_of(std::begin(host), std::end(host), [](unsigned char byte) { return byte == 0; }));
}

TEST_F(ArgumentErrors, OutputScales) {
  case_.problem.d_type = DataType::kE4m3;
  case_.problem.epilogue.output_scale = true;
  const Plan plan = right_plan();
  bench().poison_output(case_);
  static const float host = 1;
  const testing::DeviceBuffer device = require(testing::DeviceBuffer::create(32));
  const struct {
    const void* pointer;
    const char* what;
  } bad[] = {{nullptr, "a null output_scale"},
             {&host, "an output_scale on the CPU"},
             {offset(device.data(), 4), "a misaligned output_scale"},
             {bench().d().data(), "an output_scale inside D"}};
  for (const auto& [pointer, what] : bad) {
    Arguments arguments = bench().arguments();
    arguments.output_scale = static_cast<const float*>(pointer);
    expect_refused(plan, arguments, bench().workspace().data(), bench().workspace().size(),
                   {StatusCode::kInvalidArgument}, what);
  }
}

TEST_F(ArgumentErrors, OutputInsideTheInput) {
  Arguments arguments = bench().arguments();
  arguments.d = offset(bench().a().data(), 4096);
  expect_refused(arguments, {StatusCode::kInvalidArgument}, "a D inside A");
}

TEST_F(ArgumentErrors, WeightsOfAnotherPlan) {
  const auto expect_mismatch = [this](const Problem& problem, const char* what) {
    QuantizedWeight weight;
    weight.n = problem.n;
    weight.k = problem.k;
    weight.group_size = problem.group_size;
    weight.scale_type = problem.a_type;
    const std::vector<std::uint8_t> qweight(static_cast<std::size_t>(weight.n * ((weight.k + 1) / 2)), 0x59);
    const std::vector<std::uint16_t> scales(static_cast<std::size_t>(weight.groups() * weight.n), 0);
    weight.qweight = qweight.data();
    weight.scales = scales.data();
    PrepackOptions options;
    options.device = Device::cuda();
    options.scale_type = problem.a_type;
    const PackedWeight packed = require(prepack(weight, options));
    Arguments arguments = bench().arguments();
    arguments.weight = &packed;
    expect_refused(arguments, {StatusCode::kIncompatible}, what);
  };
  Problem other = case_.problem;
  other.n += 64;
  expect_mismatch(other, "a weight of another N");
  other = case_.problem;
  other.k -= 64;
  expect_mismatch(other, "a weight of another K");
  other = case_.problem;
  other.group_size = 64;
  expect_mismatch(other, "a weight of another group size");
  other = case_.problem;
  other.a_type = other.d_type = DataType::kF16;
  expect_mismatch(other, "a weight with scales of another type");

  const PackedWeight& right = bench().packed();
  const std::shared_ptr<const void> payload(right.weights(), [](const void*) {});
  PackedHeader header = right.header();
  header.version += 1;
  const PackedWeight newer(header, right.device(), payload);
  Arguments arguments = bench().arguments();
  arguments.weight = &newer;
  expect_refused(arguments, {StatusCode::kIncompatible}, "a weight of another version");
  header = right.header();
  header.magic[0] = 'X';
  const PackedWeight foreign(header, right.device(), payload);
  arguments.weight = &foreign;
  expect_refused(arguments, {StatusCode::kIncompatible}, "a foreign weight");
}

TEST_F(ArgumentErrors, WeightsOnAnotherDevice) {
  const PackedWeight on_cpu = require(copy_to(bench().packed(), Device::cpu()));
  Arguments arguments = bench().arguments();
  arguments.weight = &on_cpu;
  expect_refused(arguments, {StatusCode::kInvalidArgument, StatusCode::kIncompatible}, "a weight on the CPU");
}

TEST_F(ArgumentErrors, Plans) {
  const auto expect_no_plan = [](const Problem& problem, const PlanOptions& options, const char* what) {
    const Result<Plan> made = plan(problem, options);
    EXPECT_FALSE(made.ok()) << what << " was accepted: " << Case{problem};
    if (!made.ok()) {
      EXPECT_FALSE(made.status().message().empty()) << what;
    }
    EXPECT_EQ(cudaGetLastError(), cudaSuccess) << what << " leaves a CUDA error behind";
  };
  PlanOptions options;
  options.device = Device::cuda();
  const Problem right = case_.problem;
  constexpr std::int64_t kHuge = std::numeric_limits<std::int64_t>::max();

  Problem bad = right;
  for (const std::int64_t m : {std::int64_t{-1}, kHuge}) {
    bad.m = m;
    expect_no_plan(bad, options, "M");
  }
  bad = right;
  for (const std::int64_t n : {std::int64_t{0}, std::int64_t{-5}, kHuge}) {
    bad.n = n;
    expect_no_plan(bad, options, "N");
  }
  bad = right;
  for (const std::int64_t k : {std::int64_t{0}, std::int64_t{-5}, kHuge}) {
    bad.k = k;
    expect_no_plan(bad, options, "K");
  }
  bad = right;
  for (const std::int64_t group_size : {0, -2, 8, 17, 100}) {
    bad.group_size = group_size;
    expect_no_plan(bad, options, "group_size");
  }
  bad = right;
  for (const std::int64_t lda : {right.k - 1, std::int64_t{-1}, kHuge}) {
    bad.lda = lda;
    expect_no_plan(bad, options, "lda");
  }
  bad = right;
  for (const std::int64_t ldd : {right.n - 1, std::int64_t{-1}, kHuge}) {
    bad.ldd = ldd;
    expect_no_plan(bad, options, "ldd");
  }
  bad = right;
  bad.a_type = DataType::kF32;
  expect_no_plan(bad, options, "a_type f32");
  bad = right;
  bad.d_type = DataType::kF16;
  expect_no_plan(bad, options, "d_type other than a_type");

  options.schedule = "gemm_of_somebody_else";
  expect_no_plan(right, options, "an unknown schedule");
  options.schedule.clear();
  for (const int ordinal : {-1, 99}) {
    options.device = Device::cuda(ordinal);
    expect_no_plan(right, options, "an absent device");
  }
}

// Groups that no kernel of 8-bit activations serves: prepack says so as well as plan, and both say why.
TEST_F(ArgumentErrors, GroupsThatNoKernelServes) {
  struct Row {
    DataType a_type;
    WeightType w_type;
    std::int64_t k, group_size;
    const char* reason;
  };
  const Row rows[] = {{DataType::kS8, WeightType::kU4b8, 96, 48, "32 k a step"},
                      {DataType::kE4m3, WeightType::kU4b8, 64, 16, "32 k a step"},
                      {DataType::kE4m3, WeightType::kE4m3, 96, 48, "32 k a step"},
                      {DataType::kS8, WeightType::kU8b128, 131072, -1, "less than 131072 k"}};
  for (const Row& row : rows) {
    Problem problem = make_problem(row.a_type, 16, 64, row.k, row.group_size);
    problem.w_type = row.w_type;
    const Result<Plan> made = plan(problem, on_cuda());
    ASSERT_FALSE(made.ok()) << Case{problem};
    EXPECT_EQ(made.status().code(), StatusCode::kUnsupported);
    EXPECT_NE(made.status().message().find(row.reason), std::string::npos) << made.status().message();
    EXPECT_NE(made.status().message().find("take 16-bit activations"), std::string::npos) << made.status().message();

    QuantizedWeight weight;
    weight.type = row.w_type;
    weight.n = 64;
    weight.k = row.k;
    weight.group_size = row.group_size;
    const std::vector<std::uint8_t> qweight(static_cast<std::size_t>(weight.n * weight.row_bytes()), 0x11);
    const std::vector<std::uint16_t> scales(static_cast<std::size_t>(weight.groups() * weight.n), 0x3f80);
    weight.qweight = qweight.data();
    weight.scales = scales.data();
    PrepackOptions options;
    options.device = Device::cuda();
    EXPECT_TRUE(prepack(weight, options).ok()) << "for 16-bit activations; " << Case{problem};
    options.activation_bits = 8;
    const Result<PackedWeight> packed = prepack(weight, options);
    ASSERT_FALSE(packed.ok()) << Case{problem};
    EXPECT_NE(packed.status().message().find(row.reason), std::string::npos) << packed.status().message();
    EXPECT_NE(packed.status().message().find("prepack for 16-bit ones"), std::string::npos)
        << packed.status().message();
  }
}

TEST_F(ArgumentErrors, TokensThatOverlap) {
  testing::DeviceBuffer memory = require(testing::DeviceBuffer::create(4096));
  TokenQuantization what;
  what.m = 4;
  what.k = 64;
  TokenOptions options;
  options.device = Device::cuda();
  char* const base = memory.as<char>();
  const auto quantise = [&](int a, int codes, int scales) {
    return quantize_tokens(what, base + a, base + codes, reinterpret_cast<float*>(base + scales), options,
                           Stream(bench().stream()));
  };
  EXPECT_TRUE(quantise(0, 512, 768).ok());
  EXPECT_EQ(quantise(0, 496, 768).code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(quantise(0, 512, 496).code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(quantise(0, 512, 752).code(), StatusCode::kInvalidArgument);
  ASSERT_EQ(cudaStreamSynchronize(bench().stream()), cudaSuccess);
}

TEST_F(ArgumentErrors, NoTokensDoNothing) {
  Case c = case_;
  c.problem.m = 0;
  c.schedule.clear();
  const Plan plan = require(bench().make_plan(c));
  Arguments arguments = bench().arguments();
  Status status =
      run(plan, arguments, bench().workspace().data(), bench().workspace().size(), Stream(bench().stream()));
  EXPECT_TRUE(status.ok()) << status.message();
  const std::vector<unsigned char> d = bench().output();
  EXPECT_TRUE(std::all_of(d.begin(), d.end(), [](unsigned char byte) { return byte == 0xFF; })) << "D was written";
}

}  // namespace
}  // namespace machete::tests
