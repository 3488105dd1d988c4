#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "tests/gpu/workbench.h"

// Plans with programmatic dependent launch: a linear may start while the one that writes its activations still runs.
namespace machete::tests {
namespace {

class Overlap : public GpuTest {};

Case square(std::int64_t m, std::int64_t n) {
  Case c;
  c.problem = make_problem(DataType::kBf16, m, n, n);
  return c;
}

// A chain of linears, each the next one's activations, through buffers in turn and one workspace. The last output.
std::vector<unsigned char> run_chain(const Plan& plan, const PackedWeight& weight, const testing::DeviceBuffer& first,
                                     std::vector<testing::DeviceBuffer>& buffers, testing::DeviceBuffer& workspace,
                                     int length, cudaStream_t stream) {
  require(workspace.resize(plan.workspace_size()));
  require(workspace.poison(stream));
  for (testing::DeviceBuffer& buffer : buffers)
    require(cudaMemsetAsync(buffer.data(), 0xff, buffer.size(), stream), "poison");
  const void* a = first.data();
  for (int i = 0; i < length; ++i) {
    void* d = buffers[static_cast<std::size_t>(i) % buffers.size()].data();
    require(run(plan, Arguments{a, &weight, d}, workspace.data(), workspace.size(), stream));
    a = d;
  }
  std::vector<unsigned char> last(buffers[0].size());
  require(cudaMemcpyAsync(last.data(), a, last.size(), cudaMemcpyDeviceToHost, stream), "copy");
  require(cudaStreamSynchronize(stream), "wait");
  return last;
}

// Chains with and without dependent launch, of every schedule. Were a kernel to read its activations before the one
// ahead has written them, it would read poison or the output of an earlier link.
void compare_chains(Workbench& bench, const Case& c, int launches) {
  constexpr int kLength = 25;
  bench.prepare(c);
  std::vector<testing::DeviceBuffer> buffers(2);
  testing::DeviceBuffer workspace;
  for (testing::DeviceBuffer& buffer : buffers) {
    require(buffer.resize(static_cast<std::size_t>(c.problem.m * c.problem.n) * 2));
  }
  for (const ScheduleChoice& choice : require(list_schedules(c.problem, on_cuda()))) {
    PlanOptions options;
    options.device = Device::cuda();
    options.schedule = choice.name;
    const Plan plain = require(plan(c.problem, options));
    options.overlap = true;
    const Plan overlapped = require(plan(c.problem, options));
    const auto expected = run_chain(plain, bench.packed(), bench.a(), buffers, workspace, kLength, bench.stream());
    for (int repetition = 0; repetition < launches / kLength; ++repetition) {
      ASSERT_EQ(run_chain(overlapped, bench.packed(), bench.a(), buffers, workspace, kLength, bench.stream()), expected)
          << "repro: " << c << " schedule=" << choice.name << " repetition " << repetition;
    }
  }
}

TEST_F(Overlap, AChainGivesTheBitsOfPlainLaunches) {
  for (const std::int64_t m : {1, 2, 8, 16, 32, 64, 300}) compare_chains(bench(), square(m, 1024), 1000);
}

// A kernel of ours brings the activations in order first, and both wait.
TEST_F(Overlap, AChainWithGatheredActivationsGivesThemToo) {
  for (const std::int64_t m : {1, 20, 100}) {
    Case c = square(m, 1024);
    c.problem.act_order = true;
    compare_chains(bench(), c, 200);
  }
}

// The kernel ahead is not ours: a long copy writes the activations.
void wait_for_a_copy(Workbench& bench, std::int64_t m) {
  constexpr std::size_t kBallast = std::size_t{256} << 20;
  const Case c = square(m, 4096);
  bench.prepare(c);
  require(bench.make_plan(c));
  PlanOptions options;
  options.device = Device::cuda();
  options.overlap = true;
  const Plan overlapped = require(plan(c.problem, options));
  testing::DeviceBuffer workspace;
  require(workspace.resize(overlapped.workspace_size()));
  bench.poison_output(c);
  require(run(overlapped, bench.arguments(), workspace.data(), workspace.size(), bench.stream()));
  const auto expected = bench.output();

  testing::DeviceBuffer from;
  testing::DeviceBuffer to;
  testing::DeviceBuffer activations;
  require(from.resize(kBallast));
  require(to.resize(kBallast));
  const std::size_t bytes = static_cast<std::size_t>(m * c.problem.k) * 2;
  require(activations.resize(bytes));
  require(cudaMemcpyAsync(activations.data(), bench.a().data(), bytes, cudaMemcpyDeviceToDevice, bench.stream()),
          "copy");
  for (int repetition = 0; repetition < 20; ++repetition) {
    require(cudaMemsetAsync(bench.a().data(), 0xff, bytes, bench.stream()), "poison");
    bench.poison_output(c);
    require(cudaMemcpyAsync(to.data(), from.data(), kBallast, cudaMemcpyDeviceToDevice, bench.stream()), "ballast");
    require(cudaMemcpyAsync(bench.a().data(), activations.data(), bytes, cudaMemcpyDeviceToDevice, bench.stream()),
            "copy");
    require(run(overlapped, bench.arguments(), workspace.data(), workspace.size(), bench.stream()));
    ASSERT_EQ(bench.output(), expected) << "repetition " << repetition;
  }
}

TEST_F(Overlap, WaitsForAForeignProducer) {
  for (const std::int64_t m : {1, 2, 8, 20, 40}) wait_for_a_copy(bench(), m);
}

}  // namespace
}  // namespace machete::tests
