#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "machete/tokens.h"
#include "tests/gpu/workbench.h"

// Runs captured into CUDA graphs.
namespace machete::tests {
namespace {

class Graphs : public GpuTest {};

// What was captured from a stream, ready to launch.
class Graph {
 public:
  // Global mode: any CUDA call that may not be captured, an allocation for one, fails, whichever thread makes it.
  explicit Graph(cudaStream_t stream) : stream_(stream) {
    require(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeGlobal), "cudaStreamBeginCapture");
    capturing_ = true;
  }
  ~Graph() {
    if (capturing_) static_cast<void>(cudaStreamEndCapture(stream_, &graph_));
    if (executable_ != nullptr) static_cast<void>(cudaGraphExecDestroy(executable_));
    if (graph_ != nullptr) static_cast<void>(cudaGraphDestroy(graph_));
  }
  Graph(const Graph&) = delete;
  Graph& operator=(const Graph&) = delete;

  void finish() {
    capturing_ = false;
    require(cudaStreamEndCapture(stream_, &graph_), "cudaStreamEndCapture");
    require(cudaGraphInstantiate(&executable_, graph_, 0), "cudaGraphInstantiate");
  }
  void launch() { require(cudaGraphLaunch(executable_, stream_), "cudaGraphLaunch"); }

  std::vector<cudaGraphNodeType> node_types() const {
    std::size_t count = 0;
    require(cudaGraphGetNodes(graph_, nullptr, &count), "cudaGraphGetNodes");
    std::vector<cudaGraphNode_t> nodes(count);
    if (count > 0) require(cudaGraphGetNodes(graph_, nodes.data(), &count), "cudaGraphGetNodes");
    std::vector<cudaGraphNodeType> types;
    for (const cudaGraphNode_t node : nodes) {
      cudaGraphNodeType type = cudaGraphNodeTypeEmpty;
      require(cudaGraphNodeGetType(node, &type), "cudaGraphNodeGetType");
      types.push_back(type);
    }
    return types;
  }

 private:
  cudaStream_t stream_;
  bool capturing_ = false;
  cudaGraph_t graph_ = nullptr;
  cudaGraphExec_t executable_ = nullptr;
};

void capture_and_replay(Workbench& workbench, Case c) {
  const cudaStream_t stream = workbench.stream();
  workbench.prepare(c);
  workbench.poison_output(c);
  const Plan plan = require(workbench.make_plan(c));
  c.schedule = plan.schedule();

  // Not run before: whatever a first run sets up must be done by plan().
  const Arguments arguments = workbench.arguments();
  void* const workspace = workbench.workspace().data();
  const std::size_t workspace_size = workbench.workspace().size();
  Graph graph(stream);
  const Status status = run(plan, arguments, workspace, workspace_size, Stream(stream));
  ASSERT_TRUE(status.ok()) << status.message() << "\n  " << c;
  graph.finish();

  const std::vector<cudaGraphNodeType> types = graph.node_types();
  EXPECT_FALSE(types.empty()) << c;
  for (const cudaGraphNodeType type : types) {
    EXPECT_TRUE(type != cudaGraphNodeTypeMemAlloc && type != cudaGraphNodeTypeMemFree)
        << "run allocates memory\n  " << c;
    EXPECT_NE(type, cudaGraphNodeTypeHost) << "run waits for the host\n  " << c;
  }

  for (int replay = 0; replay < 10; ++replay) {
    ++c.seed;
    workbench.prepare_activations(c, stream);
    require(workbench.d().poison(stream));
    require(workbench.workspace().poison(stream));
    graph.launch();
    require(cudaStreamSynchronize(stream), "while the graph ran");
    const testing::DeviceErrorReport report = workbench.check_output(c, Workbench::Check::kBounds);
    require(report.status);
    EXPECT_TRUE(report.passed) << "replay " << replay << ": error/bound " << report.max_ratio
                               << " at m=" << report.worst_m << " n=" << report.worst_n << "\n  " << c;
  }
  EXPECT_TRUE(workbench.guards_intact()) << c;
}

TEST_F(Graphs, EveryScheduleReplaysWithFreshInputs) {
  for (const DataType type : kEveryActivationType) {
    for (const std::int64_t m : {1, 17, 64, 200}) {
      Case c{make_problem(type, m, 384, 2112, 64)};
      c.seed = 10000 + static_cast<std::uint64_t>(100 * m);
      for (const std::string& schedule : schedules_of(c.problem)) {
        c.schedule = schedule;
        capture_and_replay(bench(), c);
        if (HasFatalFailure()) return;
      }
    }
  }
}

TEST_F(Graphs, OddStrides) {
  Case c{make_problem(DataType::kBf16, 33, 129, 1000, 32)};
  c.problem.lda = 1003;
  c.problem.ldd = 131;
  c.seed = 11000;
  capture_and_replay(bench(), c);
}

// Many runs in one graph, one after the other through one workspace, as a model's layers are.
TEST_F(Graphs, RunsInARowShareAWorkspace) {
  constexpr int kRuns = 8;
  for (const DataType type : kEveryActivationType) {
    Case c{make_problem(type, 24, 512, 4096)};
    c.seed = 12000;
    for (const std::string& schedule : schedules_of(c.problem)) {
      c.schedule = schedule;
      ASSERT_TRUE(bench().try_case(c));
      const std::vector<unsigned char> expected = bench().output();
      const Plan plan = require(bench().make_plan(c));
      std::vector<testing::DeviceBuffer> outputs;
      for (int i = 0; i < kRuns; ++i) {
        outputs.push_back(
            require(testing::DeviceBuffer::create(bench().d().size(), testing::DeviceBuffer::Guard::kZones)));
        require(outputs.back().poison(bench().stream()));
      }
      require(bench().workspace().poison(bench().stream()));
      require(cudaStreamSynchronize(bench().stream()), "before the capture");

      Arguments arguments = bench().arguments();
      void* const workspace = bench().workspace().data();
      const std::size_t workspace_size = bench().workspace().size();
      Graph graph(bench().stream());
      for (testing::DeviceBuffer& output : outputs) {
        arguments.d = output.data();
        const Status status = run(plan, arguments, workspace, workspace_size, Stream(bench().stream()));
        ASSERT_TRUE(status.ok()) << status.message() << "\n  " << c;
      }
      graph.finish();
      graph.launch();
      require(cudaStreamSynchronize(bench().stream()), "while the graph ran");
      for (int i = 0; i < kRuns; ++i) {
        const testing::DeviceBuffer& output = outputs[static_cast<std::size_t>(i)];
        std::vector<unsigned char> found(output.size());
        require(output.download(found.data(), found.size()));
        EXPECT_TRUE(found == expected) << "run " << i << " of the graph differs\n  " << c;
        EXPECT_TRUE(require(output.guards_intact())) << c;
      }
      EXPECT_TRUE(bench().guards_intact()) << c;
    }
  }
}

// The first call of its kernels, where a test has a process of its own (ctest): nothing may be loaded that a capture of
// Global mode forbids.
TEST_F(Graphs, TokensAreQuantisedWithoutACallBefore) {
  std::uint64_t seed = 12500;
  for (const DataType a_type : kActivationTypes) {
    for (const DataType code_type : {DataType::kS8, DataType::kE4m3}) {
      for (const std::int64_t k : {13, 1024, 14336}) {
        TokenQuantization what;
        what.m = 5;
        what.k = k;
        what.a_type = a_type;
        what.code_type = code_type;
        TokenOptions options;
        options.device = Device::cuda();
        const cudaStream_t stream = bench().stream();
        testing::DeviceBuffer a = require(testing::DeviceBuffer::create(static_cast<std::size_t>(what.m * k) * 2));
        testing::DeviceBuffer codes = require(testing::DeviceBuffer::create(static_cast<std::size_t>(what.m * k)));
        testing::DeviceBuffer scales = require(testing::DeviceBuffer::create(static_cast<std::size_t>(what.m) * 4));
        require(cudaStreamSynchronize(stream), "before the capture");
        Graph graph(stream);
        require(quantize_tokens(what, a.data(), codes.data(), scales.as<float>(), options, Stream(stream)));
        graph.finish();
        for (int replay = 0; replay < 3; ++replay) {
          require(testing::fill_activations(a_type, a.data(), what.m, k, k, testing::ActivationFill::kNormal, ++seed,
                                            stream));
          require(codes.poison(stream));
          require(scales.poison(stream));
          graph.launch();
          require(cudaStreamSynchronize(stream), "while the graph ran");
          std::vector<unsigned char> from(a.size());
          std::vector<unsigned char> found(codes.size());
          std::vector<float> found_scales(static_cast<std::size_t>(what.m));
          require(a.download(from.data(), from.size()));
          require(codes.download(found.data(), found.size()));
          require(scales.download(found_scales.data(), scales.size()));
          std::vector<unsigned char> expected(found.size());
          std::vector<float> expected_scales(found_scales.size());
          options.device = Device::cpu();
          require(quantize_tokens(what, from.data(), expected.data(), expected_scales.data(), options));
          options.device = Device::cuda();
          EXPECT_EQ(found, expected) << name_of(a_type) << " to " << name_of(code_type) << ", K=" << k;
          EXPECT_EQ(found_scales, expected_scales);
        }
      }
    }
  }
}

}  // namespace
}  // namespace machete::tests
