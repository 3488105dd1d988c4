#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "tests/gpu/workbench.h"

// Runs beside and after each other. Every schedule is deterministic, so results are compared by their bits.
namespace machete::tests {
namespace {

using testing::DeviceBuffer;

class Streams : public GpuTest {};

// One of several users of a plan: a stream, and buffers of its own.
struct Lane {
  cudaStream_t stream = nullptr;
  DeviceBuffer a{DeviceBuffer::Guard::kZones};
  DeviceBuffer d{DeviceBuffer::Guard::kZones};
  DeviceBuffer workspace{DeviceBuffer::Guard::kZones};
  std::vector<unsigned char> expected;  // D

  Lane() { require(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "cudaStreamCreate"); }
  ~Lane() {
    static_cast<void>(cudaStreamSynchronize(stream));
    static_cast<void>(cudaStreamDestroy(stream));
  }
  Lane(const Lane&) = delete;
  Lane& operator=(const Lane&) = delete;

  // Runs the case once by itself, checked, and takes over its input and output.
  void learn(Workbench& workbench, const Case& c) {
    const ::testing::AssertionResult alone = workbench.try_case(c);
    ASSERT_TRUE(alone) << alone.message();
    expected = workbench.output();
    require(a.resize(workbench.a().size()));
    require(cudaMemcpy(a.data(), workbench.a().data(), a.size(), cudaMemcpyDeviceToDevice), "copy A");
    require(d.resize(workbench.d().size()));
    require(workspace.resize(workbench.workspace().size()));
  }

  Status enqueue(const Plan& plan, const PackedWeight& packed) {
    if (Status status = d.poison(stream); !status.ok()) return status;
    if (Status status = workspace.poison(stream); !status.ok()) return status;
    Arguments arguments;
    arguments.a = a.data();
    arguments.weight = &packed;
    arguments.d = d.data();
    return run(plan, arguments, workspace.data(), workspace.size(), Stream(stream));
  }

  // Waits.
  bool is_right() {
    require(cudaStreamSynchronize(stream), "while a lane ran");
    std::vector<unsigned char> found(d.size());
    require(d.download(found.data(), found.size()));
    return found == expected && require(d.guards_intact()) && require(workspace.guards_intact()) &&
           require(a.guards_intact());
  }
};

TEST_F(Streams, TwoAtOnceWithOnePlan) {
  Lane lanes[2];
  for (const DataType type : kEveryActivationType) {
    for (const std::int64_t m : {1, 40, 150}) {
      Case c{make_problem(type, m, 1024, 4096)};
      for (const std::string& schedule : schedules_of(c.problem)) {
        c.schedule = schedule;
        c.seed = 13000;
        for (Lane& lane : lanes) {
          ++c.seed;
          lane.learn(bench(), c);
          if (HasFatalFailure()) return;
        }
        EXPECT_TRUE(lanes[0].expected != lanes[1].expected) << "different inputs gave equal outputs\n  " << c;
        const Plan plan = require(bench().make_plan(c));
        require(cudaDeviceSynchronize(), "before the lanes start");
        for (int i = 0; i < 20; ++i) {
          for (Lane& lane : lanes) require(lane.enqueue(plan, bench().packed()));
        }
        for (Lane& lane : lanes) EXPECT_TRUE(lane.is_right()) << "two streams disturb each other\n  " << c;
      }
    }
  }
}

TEST_F(Streams, FourThreadsWithOnePlan) {
  Lane lanes[4];
  for (const DataType type : kEveryActivationType) {
    Case c{make_problem(type, 20, 768, 3072)};
    c.seed = 14000;
    for (Lane& lane : lanes) {
      ++c.seed;
      lane.learn(bench(), c);
      if (HasFatalFailure()) return;
    }
    const Plan plan = require(bench().make_plan(c));
    require(cudaDeviceSynchronize(), "before the lanes start");
    const PackedWeight packed = bench().packed();
    Status outcomes[4];
    std::vector<std::thread> threads;
    for (int t = 0; t < 4; ++t) {
      threads.emplace_back([&lane = lanes[t], &outcome = outcomes[t], plan, packed] {
        for (int i = 0; i < 50 && outcome.ok(); ++i) outcome = lane.enqueue(plan, packed);
      });
    }
    for (std::thread& thread : threads) thread.join();
    for (int t = 0; t < 4; ++t) {
      EXPECT_TRUE(outcomes[t].ok()) << outcomes[t].message();
      EXPECT_TRUE(lanes[t].is_right()) << "threads disturb each other\n  " << c;
    }
  }
}

// The second linear reads what the first one wrote, with nothing but the stream's order between them.
TEST_F(Streams, ChainedLinears) {
  DeviceBuffer hidden(DeviceBuffer::Guard::kZones);
  for (const DataType type : kActivationTypes) {
    for (const std::int64_t m : {1, 30, 128}) {
      Case c{make_problem(type, m, 1024, 1024)};
      c.seed = 15000 + static_cast<std::uint64_t>(m);
      for (const std::string& schedule : schedules_of(c.problem)) {
        c.schedule = schedule;
        // Twice over a hidden state of other values: a run that starts too early reads stale ones.
        for (int pass = 0; pass < 2; ++pass) {
          ++c.seed;
          bench().prepare(c);
          bench().poison_output(c);
          require(hidden.resize(bench().d().size()));
          require(hidden.poison(bench().stream()));
          const Plan plan = require(bench().make_plan(c));
          require(bench().workspace().poison(bench().stream()));
          Arguments first = bench().arguments();
          first.d = hidden.data();
          Arguments second = bench().arguments();
          second.a = hidden.data();
          for (const Arguments& arguments : {first, second}) {
            const Status status =
                run(plan, arguments, bench().workspace().data(), bench().workspace().size(), Stream(bench().stream()));
            ASSERT_TRUE(status.ok()) << status.message() << "\n  " << c;
          }
          require(cudaStreamSynchronize(bench().stream()), "while the chain ran");
          const QuantizedWeight weight = bench().weight();
          testing::DeviceCheck check;
          for (const Arguments& arguments : {first, second}) {
            const testing::DeviceErrorReport report = check.within_bounds(c.problem, arguments.a, weight, arguments.d);
            require(report.status);
            EXPECT_TRUE(report.passed) << (arguments.d == hidden.data() ? "first" : "second") << " linear: error/bound "
                                       << report.max_ratio << "\n  " << c;
          }
        }
      }
    }
  }
}

TEST_F(Streams, RepeatedRunsGiveTheSameBits) {
  for (const DataType type : kEveryActivationType) {
    for (const std::int64_t m : {1, 33}) {
      Case c{make_problem(type, m, 512, 4096)};
      c.seed = 16000 + static_cast<std::uint64_t>(m);
      std::vector<std::pair<std::string, int>> plans = {{"", 1000}};
      for (const std::string& schedule : schedules_of(c.problem)) plans.emplace_back(schedule, 100);
      for (const auto& [schedule, repetitions] : plans) {
        c.schedule = schedule;
        ASSERT_TRUE(bench().try_case(c));
        const std::vector<unsigned char> expected = bench().output();
        const Plan plan = require(bench().make_plan(c));
        int different = 0;
        for (int i = 0; i < repetitions; ++i) {
          require(bench().d().poison(bench().stream()));
          require(bench().run_plan(plan, bench().packed()));
          if (bench().output() != expected) ++different;
        }
        EXPECT_EQ(different, 0) << "of " << repetitions << " runs gave other bits\n  " << c;
      }
    }
  }
}

}  // namespace
}  // namespace machete::tests
