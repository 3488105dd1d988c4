// The planner is pure: plain structs in, a ranking out. What must hold of it on any machine.
#include "planner/planner.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <set>
#include <vector>

#include "kernels/gemm/scheduler.h"

namespace machete::planner {
namespace {

using ::testing::HasSubstr;

kernels::Kernel kernel(const char* name, int n, int m, int k, int ctas_per_sm) {
  kernels::Kernel result = {};
  result.name = name;
  result.tile = {n, m, k};
  result.stream_k = true;
  result.ctas_per_sm = ctas_per_sm;
  return result;
}

class Planner : public ::testing::Test {
 protected:
  kernels::Kernel small_ = kernel("gemm_128x32x128", 128, 32, 128, 1);
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

TEST_F(Planner, RanksEveryKernelWithAndWithoutStreamK) {
  const auto ranked = rank(problem(1, 4096, 4096), kernels_, Machine{}, nullptr);
  std::set<std::string> names;
  for (const auto& candidate : ranked) names.insert(candidate.schedule.name());
  EXPECT_EQ(names, (std::set<std::string>{"gemm_128x32x128", "gemm_128x32x128_streamk", "gemm_128x256x64",
                                          "gemm_128x256x64_streamk"}));
  for (std::size_t i = 1; i < ranked.size(); ++i) {
    EXPECT_LE(ranked[i - 1].estimate.total_us(), ranked[i].estimate.total_us());
  }
}

TEST_F(Planner, FewTokensGetTheSmallTileAndManyTheLarge) {
  EXPECT_EQ(rank(problem(1, 4096, 4096), kernels_, Machine{}, nullptr).front().schedule.kernel, &small_);
  EXPECT_EQ(rank(problem(4096, 4096, 4096), kernels_, Machine{}, nullptr).front().schedule.kernel, &large_);
}

TEST_F(Planner, SharesTilesWhereWholeOnesDoNotFillTheCard) {
  EXPECT_TRUE(rank(problem(1, 1024, 16384), kernels_, Machine{}, nullptr).front().schedule.stream_k);
  EXPECT_FALSE(rank(problem(1, 128 * 132, 4096), kernels_, Machine{}, nullptr).front().schedule.stream_k);
}

TEST_F(Planner, AMeasuredChoiceComesFirst) {
  const auto ranked = rank(problem(1, 4096, 4096), kernels_, Machine{}, "gemm_128x256x64_streamk");
  EXPECT_EQ(ranked.front().schedule.name(), "gemm_128x256x64_streamk");
  EXPECT_THAT(ranked.front().reason, HasSubstr("measured"));
}

TEST_F(Planner, ARefusalOfAllIsTheFirstOne) {
  const auto fine_groups = [](const packing::Shape& shape, std::int64_t) {
    return shape.packed_group_size == 16 ? "groups" : nullptr;
  };
  const auto tokens = [](const packing::Shape&, std::int64_t m) { return m > 8 ? "tokens" : nullptr; };
  small_.refusal = tokens;
  large_.refusal = fine_groups;
  EXPECT_EQ(refusal({}, packing::shape_of(64, 64, 16), 9), nullptr);
  EXPECT_EQ(refusal(kernels_, packing::shape_of(64, 64, 16), 8), nullptr);
  EXPECT_EQ(refusal(kernels_, packing::shape_of(64, 64, 32), 9), nullptr);
  EXPECT_STREQ(refusal(kernels_, packing::shape_of(64, 64, 16), 9), "tokens");
  EXPECT_STREQ(refusal({&large_, &small_}, packing::shape_of(64, 64, 16), 9), "groups");
  EXPECT_TRUE(rank(problem(9, 64, 64), {}, Machine{}, nullptr).empty());
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
    EXPECT_EQ(parsed->stream_k, schedule.stream_k);
  }
  const auto missing = parse_schedule("gemm_1x1x1", kernels_);
  ASSERT_FALSE(missing.ok());
  EXPECT_THAT(missing.status().message(), HasSubstr("gemm_128x32x128_streamk"));
}

TEST(TuningTable, IsLookedUpByGpuTypeShapeAndTokens) {
  const std::vector<Table> tables = {
      {"NVIDIA H100",
       {WeightType::kU4b8, WeightType::kS4},
       {DataType::kBf16, DataType::kF16},
       {},
       {{4096, 4096, 16, false, "a"},
        {4096, 4096, 64, false, "b"},
        {4096, 4096, 16, true, "d"},
        {6144, 4096, 16, false, "c"}}},
      {"NVIDIA H100", {WeightType::kE4m3}, {DataType::kBf16, DataType::kF16}, {}, {{4096, 4096, 16, false, "e"}}},
      {"NVIDIA H100", {WeightType::kU4b8}, {DataType::kS8}, {}, {{4096, 4096, 16, false, "f"}}},
      {"NVIDIA H100", {WeightType::kU4b8}, {DataType::kBf16}, {16, 32}, {{4096, 4096, 16, false, "g"}}}};
  const auto find = [&](WeightType w_type, std::int64_t m, std::int64_t k, bool overlap,
                        const char* gpu = "NVIDIA H100 80GB HBM3", DataType a_type = DataType::kBf16,
                        std::int64_t group_size = 128) {
    Problem problem;
    problem.group_size = group_size;
    problem.a_type = a_type;
    problem.w_type = w_type;
    problem.m = m;
    problem.n = 4096;
    problem.k = k;
    return look_up(tables, gpu, problem, overlap);
  };
  EXPECT_STREQ(find(WeightType::kU4b8, 1, 4096, false), "a");
  EXPECT_STREQ(find(WeightType::kS4, 1, 4096, true), "d");
  EXPECT_STREQ(find(WeightType::kU4b8, 17, 4096, true), "b");
  EXPECT_STREQ(find(WeightType::kU4b8, 17, 4096, false), "b");
  EXPECT_STREQ(find(WeightType::kE4m3, 1, 4096, true), "e");
  EXPECT_EQ(find(WeightType::kU4b8, 65, 4096, false), nullptr);
  EXPECT_EQ(find(WeightType::kU4, 1, 4096, false), nullptr);
  EXPECT_EQ(find(WeightType::kU4b8, 1, 4096, false, "NVIDIA H200"), nullptr);
  EXPECT_EQ(find(WeightType::kU4b8, 1, 8192, false), nullptr);
  EXPECT_STREQ(find(WeightType::kU4b8, 1, 4096, false, "NVIDIA H100", DataType::kF16), "a");
  EXPECT_STREQ(find(WeightType::kU4b8, 1, 4096, false, "NVIDIA H100", DataType::kS8), "f");
  EXPECT_EQ(find(WeightType::kS4, 1, 4096, false, "NVIDIA H100", DataType::kS8), nullptr);
  EXPECT_EQ(find(WeightType::kU4b8, 1, 4096, false, "NVIDIA H100", DataType::kE4m3), nullptr);
  // A group size's own table comes first, where it has an entry.
  EXPECT_STREQ(find(WeightType::kU4b8, 1, 4096, true, "NVIDIA H100", DataType::kBf16, 32), "g");
  EXPECT_STREQ(find(WeightType::kU4b8, 17, 4096, true, "NVIDIA H100", DataType::kBf16, 32), "b");
  EXPECT_STREQ(find(WeightType::kU4b8, 1, 4096, true, "NVIDIA H100", DataType::kBf16, 64), "d");
  EXPECT_EQ(find(WeightType::kS4, 1, 8192, false, "NVIDIA H100", DataType::kBf16, 32), nullptr);
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

// What the CTAs of a launch do, one after the other: every step of every tile once, every giver taken from once, after
// it has given everything that it was waited for, and only by CTAs of higher numbers.
TEST(Walk, SharesOutEveryStepOnce) {
  for (const int sms : {4, 132}) {
    for (const int tiles : {1, 2, 3, 5, 16, 112, 131, 132, 133, 200, 264, 265, 448}) {
      for (const int steps : {1, 2, 7, 32, 112}) {
        for (const bool stream_k : {false, true}) {
          const gemm::Shares shares = gemm::shares_of(tiles, steps, sms, stream_k);
          SCOPED_TRACE(::testing::Message() << sms << " SMs, " << tiles << " tiles of " << steps << " steps"
                                            << (stream_k ? ", stream-K" : ""));
          ASSERT_GE(shares.ctas, 1);
          ASSERT_LE(shares.ctas, sms);
          std::vector<std::vector<int>> done(static_cast<std::size_t>(tiles), std::vector<int>(steps, 0));
          std::map<int, int> given;  // CTA -> tile
          std::map<int, int> taken;
          int busiest = 0;
          int idlest = tiles * steps;
          for (int cta = 0; cta < shares.ctas; ++cta) {
            int work = 0;
            int tails = 0;
            for (gemm::Walk walk(shares, cta); !walk.done(); walk.advance()) {
              ASSERT_LT(walk.tile(), tiles);
              ASSERT_LT(walk.begin(), walk.end());
              for (int step = walk.begin(); step < walk.end(); ++step) ++done[walk.tile()][step];
              work += walk.end() - walk.begin();
              if (!walk.ends()) {
                EXPECT_EQ(work, walk.end() - walk.begin()) << "what is given comes first";
                EXPECT_TRUE(given.emplace(cta, walk.tile()).second) << "a CTA gives once at most";
              }
              if (walk.begin() > 0 && walk.ends()) ++tails;
              for (int giver = walk.ends() ? walk.first_giver() : cta; giver < cta; ++giver) {
                EXPECT_EQ(given.count(giver), 1u) << "waits for a CTA that does not give";
                EXPECT_EQ(given[giver], walk.tile());
                ++taken[giver];
              }
            }
            EXPECT_LE(tails, 1) << "a CTA takes for one tile at most";
            busiest = std::max(busiest, work);
            idlest = std::min(idlest, work);
          }
          for (const auto& tile : done) EXPECT_EQ(std::count(tile.begin(), tile.end(), 1), steps);
          EXPECT_EQ(taken.size(), given.size());
          for (const auto& [giver, times] : taken) EXPECT_EQ(times, 1) << "CTA " << giver;
          EXPECT_LE(busiest - idlest, stream_k ? 1 : steps);
          if (stream_k && tiles < sms) {
            const int most = (tiles * steps + sms - 1) / sms;
            EXPECT_LE(busiest, most + most / 16) << "an even split must not cost more";
          }
        }
      }
    }
  }
}

}  // namespace
}  // namespace machete::planner
