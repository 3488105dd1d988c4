#include "tests/gpu/workbench.h"

#include <sstream>
#include <stdexcept>
#include <utility>

#include "testing/cuda_status.h"

namespace machete::tests {

using testing::DeviceBuffer;

void require(const Status& status) {
  if (!status.ok()) throw std::runtime_error(status.message());
}

void require(cudaError_t error, const char* attempt) { require(testing::cuda_status(error, attempt)); }

// A blocking stream: the memory copies of DeviceBuffer, on the legacy stream, are in order with it.
Workbench::Workbench() { require(cudaStreamCreate(&stream_), "cudaStreamCreate"); }

Workbench::~Workbench() {
  if (stream_ != nullptr) static_cast<void>(cudaStreamDestroy(stream_));
}

void Workbench::prepare_weight(const Case& c) {
  const Problem& p = c.problem;
  std::ostringstream key;
  key << p.n << ' ' << p.k << ' ' << p.group_size << ' ' << static_cast<int>(p.a_type) << ' '
      << static_cast<int>(c.scales) << ' ' << c.weight_seed << ' ' << static_cast<int>(p.w_type) << ' '
      << c.fractional_zero_points << c.wide_zero_points << ' '
      << static_cast<int>(c.scale_type.value_or(p.scale_type())) << ' ' << p.act_order << ' ' << c.tensor_scale << ' '
      << (p.epilogue.activation == Activation::kSwiglu);
  if (key.str() == weight_key_) return;
  weight_key_.clear();

  weight_ = QuantizedWeight{};
  weight_.type = p.w_type;
  weight_.tensor_scale = c.tensor_scale;
  weight_.n = p.n;
  weight_.k = p.k;
  weight_.group_size = p.group_size;
  weight_.scale_type = c.scale_type.value_or(p.scale_type());
  const std::int64_t groups = weight_.groups();
  require(qweight_.resize(static_cast<std::size_t>(p.n * weight_.row_bytes())));
  require(scales_.resize(static_cast<std::size_t>(groups * p.n) * bytes_of(weight_.scale_type)));
  weight_.qweight = qweight_.data();
  weight_.scales = scales_.data();
  require(testing::fill_qweight(p.w_type, qweight_.data(), p.n, p.k, c.weight_seed, stream_));
  require(testing::fill_scales(weight_.scale_type, scales_.data(), groups, p.n, c.scales, c.weight_seed, stream_));
  if (has_zero_points(p.w_type)) {
    weight_.zero_point_type = c.fractional_zero_points ? p.scale_type() : DataType::kU8;
    require(zero_points_.resize(static_cast<std::size_t>(groups * p.n) * bytes_of(weight_.zero_point_type)));
    weight_.zero_points = zero_points_.data();
    require(testing::fill_zero_points(weight_.zero_point_type, bits_of(p.w_type), zero_points_.data(), groups, p.n,
                                      c.weight_seed, stream_, c.wide_zero_points));
  }
  if (p.act_order) {
    require(g_idx_.resize(static_cast<std::size_t>(p.k) * sizeof(std::int32_t)));
    require(testing::fill_g_idx(g_idx_.data(), p.k, p.group_size, stream_));
    weight_.g_idx = static_cast<const std::int32_t*>(g_idx_.data());
  }

  const bool swiglu = p.epilogue.activation == Activation::kSwiglu;
  const PackedHeader header = require(packed_header(weight_, p.scale_type(), swiglu, bits_of(p.a_type)));
  require(packed_.resize(header.payload_bytes()));
  require(packed_.poison(stream_));
  PrepackOptions options;
  options.device = Device::cuda();
  options.scale_type = p.scale_type();
  options.activation_bits = bits_of(p.a_type);
  options.swiglu = swiglu;
  options.stream = Stream(stream_);
  packed_weight_ = require(prepack_into(weight_, options, packed_.data(), packed_.size()));
  weight_key_ = key.str();
}

void Workbench::prepare_activations(const Case& c, cudaStream_t stream) {
  const Problem& p = c.problem;
  activation_key_.clear();  // prepare() sets it again
  // Padding between the rows is NaN, to be found wherever it leaks into a result.
  require(a_.poison(stream));
  if (c.identity_from.has_value()) {
    require(testing::fill_identity(p.a_type, a_.data(), p.m, p.k, lda_of(p), *c.identity_from, stream));
  } else {
    require(testing::fill_activations(p.a_type, a_.data(), p.m, p.k, lda_of(p), c.activations, c.seed, stream));
  }
}

void Workbench::prepare(const Case& c) {
  prepare_weight(c);
  const Problem& p = c.problem;
  std::ostringstream key;
  key << p.m << ' ' << p.k << ' ' << lda_of(p) << ' ' << static_cast<int>(p.a_type) << ' '
      << static_cast<int>(c.activations) << ' ' << c.identity_from.value_or(-1) << ' ' << c.seed;
  if (key.str() == activation_key_) return;
  // A ends with the last element of its last row, and so does D.
  const std::int64_t elements = p.m > 0 ? (p.m - 1) * lda_of(p) + p.k : 0;
  require(a_.resize(static_cast<std::size_t>(elements) * bytes_of(p.a_type)));
  prepare_activations(c, stream_);
  activation_key_ = key.str();
}

void Workbench::poison_output(const Case& c) {
  const Problem& p = c.problem;
  const std::int64_t elements = p.m > 0 ? (p.m - 1) * ldd_of(p) + p.n : 0;
  require(d_.resize(static_cast<std::size_t>(elements) * bytes_of(p.d_type)));
  require(d_.poison(stream_));
}

Result<Plan> Workbench::make_plan(const Case& c) {
  PlanOptions options;
  options.device = Device::cuda();
  options.schedule = c.schedule;
  Result<Plan> made = plan(c.problem, options);
  if (made.ok()) require(workspace_.resize(made->workspace_size()));
  return made;
}

Arguments Workbench::arguments() {
  Arguments arguments;
  arguments.a = a_.data();
  arguments.weight = &packed_weight_;
  arguments.d = d_.data();
  return arguments;
}

Status Workbench::run_plan(const Plan& plan, const PackedWeight& packed) {
  require(workspace_.poison(stream_));
  Arguments given = arguments();
  given.weight = &packed;
  if (Status status = run(plan, given, workspace_.data(), workspace_.size(), Stream(stream_)); !status.ok()) {
    return status;
  }
  if (Status status = testing::launch_status("left behind by run"); !status.ok()) return status;
  return testing::cuda_status(cudaStreamSynchronize(stream_), "while the kernel ran");
}

testing::DeviceErrorReport Workbench::check_output(const Case& c, Check check) {
  testing::CheckOptions options;
  options.stream = stream_;
  return check == Check::kExact ? check_.exact(c.problem, a_.data(), weight_, d_.data(), options)
                                : check_.within_bounds(c.problem, a_.data(), weight_, d_.data(), options);
}

::testing::AssertionResult Workbench::guards_intact() const {
  const std::pair<const char*, const DeviceBuffer*> buffers[] = {
      {"A", &a_},         {"qweight", &qweight_},          {"scales", &scales_}, {"zero_points", &zero_points_},
      {"g_idx", &g_idx_}, {"the packed weight", &packed_}, {"D", &d_},           {"the workspace", &workspace_}};
  for (const auto& [name, buffer] : buffers) {
    if (!require(buffer->guards_intact())) {
      return ::testing::AssertionFailure() << "something was written outside of " << name;
    }
  }
  return ::testing::AssertionSuccess();
}

std::vector<unsigned char> Workbench::output() const {
  std::vector<unsigned char> bytes(d_.size());
  require(cudaStreamSynchronize(stream_), "before D is read");
  if (!bytes.empty()) require(d_.download(bytes.data(), bytes.size()));
  return bytes;
}

::testing::AssertionResult Workbench::fail(const Case& c, const std::string& what) {
  // Whatever went wrong, the next case starts from scratch, guards included.
  weight_key_.clear();
  activation_key_.clear();
  if (++failures_ >= 20) {
    std::ostringstream line;
    line << what << "; " << c << "; 20 cases have failed, the rest of this test is not run";
    failures_ = 0;
    throw std::runtime_error(line.str());
  }
  return ::testing::AssertionFailure() << what << "\n  " << c;
}

::testing::AssertionResult Workbench::try_case(const Case& c, Check check) {
  prepare(c);
  poison_output(c);
  const Result<Plan> made = make_plan(c);
  if (!made.ok()) return fail(c, "plan: " + made.status().message());
  Case ran = c;
  ran.schedule = made->schedule();
  if (!c.schedule.empty() && ran.schedule != c.schedule)
    return fail(c, "another schedule was planned: " + ran.schedule);
  if (Status status = run_plan(*made, packed_weight_); !status.ok()) return fail(ran, "run: " + status.message());

  if (const ::testing::AssertionResult intact = guards_intact(); !intact) return fail(ran, intact.message());
  const Problem& p = c.problem;
  const std::int64_t overwritten =
      require(testing::count_overwritten_padding(p.d_type, d_.data(), p.m, p.n, ldd_of(p), stream_));
  if (overwritten != 0) return fail(ran, std::to_string(overwritten) + " bytes between the rows of D overwritten");

  const testing::DeviceErrorReport report = check_output(c, check);
  require(report.status);
  if (!report.passed) {
    std::ostringstream what;
    what << (check == Check::kExact ? "not exact" : "outside its bound") << " at m=" << report.worst_m
         << " n=" << report.worst_n << ": error/bound " << report.max_ratio << ", relative Frobenius error "
         << report.rel_frobenius;
    return fail(ran, what.str());
  }
  return ::testing::AssertionSuccess();
}

std::unique_ptr<Workbench> GpuTest::bench_;

void GpuTest::SetUp() {
  int count = 0;
  if (cudaGetDeviceCount(&count) != cudaSuccess || count == 0) GTEST_SKIP() << "no CUDA GPU";
  int major = 0;
  ASSERT_EQ(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, 0), cudaSuccess);
  if (major != 9)
    GTEST_SKIP() << "no CUDA GPU of the Hopper architecture: the first one has compute capability " << major;
  ASSERT_EQ(default_device(), Device::cuda()) << "a Hopper GPU is here, but the library does not take it";
  ASSERT_EQ(cudaSetDevice(0), cudaSuccess);
  if (bench_ == nullptr) bench_ = std::make_unique<Workbench>();
}

}  // namespace machete::tests
