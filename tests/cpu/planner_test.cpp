// The planner is pure: plain structs in, a ranking out. What must hold of it on any machine.
#include "planner/planner.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>

#include "kernels/gemm/scheduler.h"

namespace machete::planner {
namespace {

using ::testing::HasSubstr;

kernels::Kernel kernel(const char* name, int n, int m, int k, int ctas_per_sm) {
  kernels::Kernel result = {};
  result.name = name;
  result.tile = {n, m, k};
  result.max_splits = 8;
  result.ctas_per_sm = ctas_per_sm;
  return result;
}

class Planner : public ::testing::Test {
 protected:
  kernels::Kernel small_ = kernel("gemm_128x16x256", 128, 16, 256, 2);
  kernels::Kernel large_ = kernel("gemm_128x256x64", 128, 256, 64, 1);
  std::vector<const kernels::Kernel*> kernels_ = {&small_, &large_};

  static Problem problem(std::int64_t m, std::int64_t n, std::int64_t k) {
    Problem p;
    p.m = m;
    p.n = n;
    p.k = k;
    return p;
  }
};

TEST_F(Planner, RanksEveryKernelWithEverySplit) {
  const auto ranked = rank(problem(1, 4096, 4096), kernels_, Machine{}, nullptr);
  std::set<std::string> names;
  for (const auto& candidate : ranked) names.insert(candidate.schedule.name());
  EXPECT_EQ(names, (std::set<std::string>{"gemm_128x16x256", "gemm_128x16x256_splitk2", "gemm_128x16x256_splitk4",
                                          "gemm_128x16x256_splitk8", "gemm_128x256x64", "gemm_128x256x64_splitk2",
                                          "gemm_128x256x64_splitk4", "gemm_128x256x64_splitk8"}));
  for (std::size_t i = 1; i < ranked.size(); ++i) {
    EXPECT_LE(ranked[i - 1].estimate.total_us(), ranked[i].estimate.total_us());
  }
}

TEST_F(Planner, FewTokensGetTheSmallTileAndManyTheLarge) {
  EXPECT_EQ(rank(problem(1, 4096, 4096), kernels_, Machine{}, nullptr).front().schedule.kernel, &small_);
  EXPECT_EQ(rank(problem(4096, 4096, 4096), kernels_, Machine{}, nullptr).front().schedule.kernel, &large_);
}

TEST_F(Planner, SplitsKWhereTilesDoNotFillTheCard) {
  EXPECT_GT(rank(problem(1, 1024, 16384), kernels_, Machine{}, nullptr).front().schedule.splits, 1);
  EXPECT_EQ(rank(problem(1, 131072, 4096), kernels_, Machine{}, nullptr).front().schedule.splits, 1);
}

TEST_F(Planner, AMeasuredChoiceComesFirst) {
  const auto ranked = rank(problem(1, 4096, 4096), kernels_, Machine{}, "gemm_128x256x64_splitk8");
  EXPECT_EQ(ranked.front().schedule.name(), "gemm_128x256x64_splitk8");
  EXPECT_THAT(ranked.front().reason, HasSubstr("measured"));
}

TEST_F(Planner, NoScheduleBeatsTheBytes) {
  for (const std::int64_t m : {1, 16, 256, 8192}) {
    for (const auto& candidate : rank(problem(m, 8192, 8192), kernels_, Machine{}, nullptr)) {
      EXPECT_GE(candidate.estimate.total_us(), 8192.0 * 8192 / 2 / 3.1e6);
      EXPECT_THAT(candidate.reason, HasSubstr("bound by"));
    }
  }
}

TEST_F(Planner, NamesParseBack) {
  for (const Schedule& schedule : schedules_of(kernels_)) {
    const auto parsed = parse_schedule(schedule.name(), kernels_);
    ASSERT_TRUE(parsed.ok());
    EXPECT_EQ(parsed->kernel, schedule.kernel);
    EXPECT_EQ(parsed->splits, schedule.splits);
  }
  const auto missing = parse_schedule("gemm_1x1x1", kernels_);
  ASSERT_FALSE(missing.ok());
  EXPECT_THAT(missing.status().message(), HasSubstr("gemm_128x16x256_splitk2"));
}

TEST(TuningTable, IsLookedUpByGpuShapeAndTokens) {
  const std::vector<Table> tables = {{"NVIDIA H100",
                                      {{4096, 4096, 16, false, "a"},
                                       {4096, 4096, 64, false, "b"},
                                       {4096, 4096, 16, true, "d"},
                                       {6144, 4096, 16, false, "c"}}}};
  EXPECT_STREQ(look_up(tables, "NVIDIA H100 80GB HBM3", 1, 4096, 4096, false), "a");
  EXPECT_STREQ(look_up(tables, "NVIDIA H100 80GB HBM3", 1, 4096, 4096, true), "d");
  EXPECT_STREQ(look_up(tables, "NVIDIA H100 80GB HBM3", 17, 4096, 4096, true), "b");
  EXPECT_STREQ(look_up(tables, "NVIDIA H100 80GB HBM3", 17, 4096, 4096, false), "b");
  EXPECT_EQ(look_up(tables, "NVIDIA H100 80GB HBM3", 65, 4096, 4096, false), nullptr);
  EXPECT_EQ(look_up(tables, "NVIDIA H200", 1, 4096, 4096, false), nullptr);
  EXPECT_EQ(look_up(tables, "NVIDIA H100 80GB HBM3", 1, 4096, 8192, false), nullptr);
}

TEST(Raster, VisitsEveryTileOnce) {
  for (const int m_tiles : {1, 7, 16, 17, 40}) {
    const gemm::Raster raster{5, m_tiles};
    std::set<std::pair<int, int>> seen;
    for (int i = 0; i < raster.size(); ++i) {
      const gemm::WorkTile tile = raster(i);
      EXPECT_TRUE(tile.n >= 0 && tile.n < 5 && tile.m >= 0 && tile.m < m_tiles);
      seen.insert({tile.n, tile.m});
    }
    EXPECT_EQ(seen.size(), static_cast<std::size_t>(raster.size()));
  }
}

TEST(SplitRange, SharesOutEveryStageOnce) {
  for (const int steps : {0, 1, 3, 16, 57}) {
    for (const int splits : {1, 2, 4, 8}) {
      int next = 0;
      for (int rank = 0; rank < splits; ++rank) {
        const gemm::StageRange range = gemm::split_range(steps, 2, rank, splits);
        EXPECT_EQ(range.begin, next);
        EXPECT_LE(range.end - range.begin, 2 * ((steps + splits - 1) / splits));
        next = range.end;
      }
      EXPECT_EQ(next, 2 * steps);
    }
  }
}

}  // namespace
}  // namespace machete::planner
