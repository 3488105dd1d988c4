// The cost model against what was measured: tuning/sweeps.
#include "planner/cost.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <string>
#include <vector>

#include "tests/cpu/folder.h"
#include "tuning/recording.h"

namespace machete::tuning {
namespace {

using ::testing::HasSubstr;

// Beyond this, and in so many points of a hundred, the choice is too slow.
constexpr double kAllowed = 1.10;

struct Record {
  double mean = 0;  // of how much slower than the best the choice is, geometric
  double worst = 0;
  double beyond = 0;  // the part of the points where it is slower than allowed
  std::string where;
};

Record record_of(const std::string& name) {
  const Result<std::vector<Recorded>> recording = read_recording(MACHETE_TABLES "/sweeps/" + name);
  EXPECT_TRUE(recording.ok()) << recording.status().message();
  Record record;
  int points = 0;
  for (const Recorded& recorded : *recording) {
    const Problem& p = recorded.problem;
    if (recorded.overlap || p.k % 8 != 0) continue;  // the model knows plain launches on aligned activations
    const Verdict verdict = judge(recorded, planner::Machine{});
    const double ratio = verdict.ratio();
    ++points;
    record.mean += std::log(ratio);
    if (ratio > kAllowed) record.beyond += 1;
    if (ratio <= record.worst) continue;
    record.worst = ratio;
    record.where = std::to_string(p.n) + "x" + std::to_string(p.k) + ", M=" + std::to_string(p.m) + ": " +
                   verdict.chosen->schedule + " for " + verdict.best->schedule;
  }
  EXPECT_GT(points, 100);
  record.mean = std::exp(record.mean / points);
  record.beyond /= points;
  return record;
}

TEST(CostModel, ChoosesWellOnMadeUpShapes) {
  const Record record = record_of("h100-2026-11-27-made-up.measurements");
  EXPECT_LT(record.mean, 1.015);
  EXPECT_LT(record.worst, 1.15) << record.where;
  EXPECT_LT(record.beyond, 0.01);
}

TEST(CostModel, ChoosesWellOnTheSuites) {
  const Record record = record_of("h100-2026-11-27-suites.measurements");
  EXPECT_LT(record.mean, 1.02);
  EXPECT_LT(record.beyond, 0.03);
}

class ARecording : public tests::FolderTest {
 protected:
  Status status_of(const std::string& text) {
    std::ofstream(path("r")) << text;
    const Result<std::vector<Recorded>> recording = read_recording(path("r"));
    return recording.ok() ? Status() : recording.status();
  }
};

TEST_F(ARecording, TellsTypesTilesAndTimes) {
  std::ofstream(path("r")) << R"({"type":"e4m3","a":"bf16","group-size":-1}
{"n":8,"k":16,"m":3,"overlap":true,"us":{"gemm_128x64x128_streamk":2.5,"batch_32x8x64w16":1.5}}
{"n":8,"k":16,"m":4,"overlap":true,"us":{}}
)";
  const Result<std::vector<Recorded>> recording = read_recording(path("r"));
  ASSERT_TRUE(recording.ok()) << recording.status().message();
  ASSERT_EQ(recording->size(), 1u);
  const Recorded& recorded = recording->front();
  EXPECT_EQ(recorded.problem.w_type, WeightType::kE4m3);
  EXPECT_EQ(recorded.problem.group_size, -1);
  EXPECT_EQ(recorded.problem.m, 3);
  EXPECT_TRUE(recorded.overlap);
  ASSERT_EQ(recorded.trials.size(), 2u);
  const bool batch_first = recorded.trials.front().us == 1.5;
  const Trial& batch = recorded.trials[batch_first ? 0 : 1];
  const Trial& gemm = recorded.trials[batch_first ? 1 : 0];
  EXPECT_EQ(batch.kernel.family, kernels::Family::kBatch);
  EXPECT_EQ(batch.kernel.order, 16);
  EXPECT_EQ(batch.kernel.tile.k, 64);
  EXPECT_FALSE(batch.stream_k);
  EXPECT_EQ(gemm.kernel.tile.m, 64);
  EXPECT_TRUE(gemm.stream_k);
  EXPECT_EQ(judge(recorded, planner::Machine{}).best, &batch);
}

TEST_F(ARecording, ThatIsBrokenIsRefusedByItsLine) {
  const std::string header = R"({"type":"u4b8","a":"bf16","group-size":128})"
                             "\n";
  EXPECT_THAT(status_of("{}").message(), HasSubstr("line 1"));
  EXPECT_THAT(status_of(header + "{").message(), HasSubstr("line 1"));
  for (const char* schedule : {"gemm_128x64", "gem_128x64x128", "gemm", ""}) {
    const std::string line = R"({"n":8,"k":16,"m":3,"overlap":true,"us":{")" + std::string(schedule) + R"(":1}})";
    EXPECT_THAT(status_of(header + line).message(), HasSubstr("line 2")) << schedule;
  }
  EXPECT_EQ(read_recording(path("none")).status().code(), StatusCode::kIo);
}

}  // namespace
}  // namespace machete::tuning
