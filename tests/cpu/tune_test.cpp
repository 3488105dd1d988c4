// How tuning tables are made, from made-up times: what is measured, what follows from it, and that nothing is lost or
// measured twice when a run is cut short.
#include "tuning/tune.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <set>
#include <string>
#include <vector>

#include "tests/cpu/folder.h"
#include "tuning/journal.h"
#include "tuning/measurement.h"
#include "tuning/table_file.h"

namespace machete::tuning {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

std::string line(const Entry& e) {
  return std::to_string(e.n) + "x" + std::to_string(e.k) + " " + std::to_string(e.m_max) +
         (e.overlap ? " overlap " : " ") + e.schedule;
}

std::vector<std::string> lines(const std::vector<Entry>& entries) {
  std::vector<std::string> result;
  for (const Entry& entry : entries) result.push_back(line(entry));
  return result;
}

ScheduleChoice choice(const char* name, double us) {
  ScheduleChoice result;
  result.name = name;
  result.estimate_us = us;
  return result;
}

TEST(TunedPoints, AreEachOnceAndOverlappedUpTo64Tokens) {
  const std::vector<Point> points = points_of({{64, 128}, {32, 16}, {64, 128}}, {1, 64, 96, 1});
  std::vector<std::string> found;
  for (const Point& p : points) found.push_back(line({p.n, p.k, p.m, p.overlap, ""}));
  EXPECT_THAT(found, ElementsAre("64x128 1 ", "64x128 1 overlap ", "64x128 64 ", "64x128 64 overlap ", "64x128 96 ",
                                 "32x16 1 ", "32x16 1 overlap ", "32x16 64 ", "32x16 64 overlap ", "32x16 96 "));
}

TEST(TunedPoints, LieWhereTilesEnd) {
  const std::vector<std::int64_t> ms = default_ms();
  EXPECT_EQ(ms.front(), 1);
  EXPECT_EQ(ms.back(), 8192);
  const std::set<std::int64_t> all(ms.begin(), ms.end());
  EXPECT_EQ(all.size(), ms.size());
  EXPECT_TRUE(std::is_sorted(ms.begin(), ms.end()));
  for (const std::int64_t m : {16, 64, 96, 128, 160, 192, 256, 512, 640, 2048}) EXPECT_EQ(all.count(m), 1u) << m;
}

TEST(WorthMeasuring, TakesTheBestEstimatesAndWhatTheTableNames) {
  const std::vector<ScheduleChoice> choices = {choice("gemm_d", 9), choice("gemm_a", 1), choice("batch_b", 2),
                                               choice("decode_c", 3), choice("gemm_e", 4)};
  EXPECT_THAT(worth_measuring(choices, 2, {}), ElementsAre("gemm_d", "gemm_a", "batch_b"));
  EXPECT_THAT(worth_measuring(choices, 3, {"decode"}), ElementsAre("gemm_d", "gemm_a", "batch_b", "gemm_e"));
  EXPECT_THAT(worth_measuring(choices, 9, {"gemm"}), ElementsAre("batch_b", "decode_c"));
  EXPECT_THAT(worth_measuring({choices.begin() + 1, choices.end()}, 2, {}), ElementsAre("gemm_a", "batch_b"));
  EXPECT_THAT(worth_measuring(choices, 2, {"gemm", "batch", "decode"}), IsEmpty());
  EXPECT_THAT(worth_measuring({}, 2, {}), IsEmpty());
}

TEST(Sizes, AreReadStrictly) {
  const Result<Size> size = parse_size("4096x14336");
  ASSERT_TRUE(size.ok());
  EXPECT_EQ(to_string(*size), "4096x14336");
  for (const char* wrong : {"", "x", "4096", "4096x", "x4096", "0x16", "16x0", "-1x16", "16x16x16", "16X16", " 1x1"}) {
    const Result<Size> refused = parse_size(wrong);
    ASSERT_FALSE(refused.ok()) << wrong;
    EXPECT_THAT(refused.status().message(), AllOf(HasSubstr(wrong), HasSubstr("4096x14336")));
  }
}

TEST(Entries, KeepAChoiceWhileItCostsLittle) {
  const std::vector<Measurement> measured = {{{8, 4, 1, false}, {{"a", 10}, {"b", 11}}},
                                             {{8, 4, 2, false}, {{"a", 10.05}, {"b", 10}}},
                                             {{8, 4, 4, false}, {{"a", 10.2}, {"b", 10}}},
                                             {{8, 4, 8, false}, {{"c", 10}}},
                                             {{8, 4, 1, true}, {{"a", 9}, {"b", 8}}},
                                             {{4, 4, 1, false}, {{"b", 8}}},
                                             {{2, 2, 1, false}, {}}};
  EXPECT_THAT(lines(entries_of(measured, 0.01)),
              ElementsAre("4x4 1 b", "8x4 2 a", "8x4 4 b", "8x4 8 c", "8x4 1 overlap b"));
  EXPECT_THAT(lines(entries_of(measured, 0)),
              ElementsAre("4x4 1 b", "8x4 1 a", "8x4 4 b", "8x4 8 c", "8x4 1 overlap b"));
}

TEST(Entries, OfAnotherTableStayWhileTheyCostLittle) {
  const std::vector<Measurement> measured = {{{8, 4, 1, false}, {{"a", 10}, {"b", 10.05}}},
                                             {{8, 4, 2, false}, {{"a", 10}, {"b", 10.2}}},
                                             {{8, 4, 4, false}, {{"a", 10}, {"b", 10.05}, {"c", 9.99}}}};
  EXPECT_THAT(lines(entries_of(measured, 0.01)), ElementsAre("8x4 4 a"));
  EXPECT_THAT(lines(entries_of(measured, 0.01, {{8, 4, 2, false, "b"}, {8, 4, 4, false, "c"}})),
              ElementsAre("8x4 1 b", "8x4 2 a", "8x4 4 c"));
  EXPECT_THAT(lines(entries_of(measured, 0.01, {{8, 4, 4, false, "gone"}})), ElementsAre("8x4 4 a"));
}

TEST(Entries, OfAnotherTableStayWhereNothingWasMeasured) {
  const std::vector<Measurement> measured = {{{8, 4, 16, false}, {{"new", 1}}}, {{8, 4, 64, false}, {{"new", 1}}}};
  const std::vector<Entry> kept = {{2, 2, 8, true, "other"},    {8, 4, 8, false, "below"}, {8, 4, 16, false, "at"},
                                   {8, 4, 32, false, "inside"}, {8, 4, 64, false, "to"},   {8, 4, 96, false, "beyond"},
                                   {8, 4, 32, true, "overlap"}};
  EXPECT_THAT(lines(entries_of(measured, 0.01, kept)),
              ElementsAre("2x2 8 overlap other", "8x4 8 below", "8x4 16 new", "8x4 32 inside", "8x4 64 new",
                          "8x4 96 beyond", "8x4 32 overlap overlap"));
}

TEST(TableText, IsReadBack) {
  TableFile table;
  table.gpu = "NVIDIA H100";
  table.w_types = {WeightType::kU4b8, WeightType::kS4};
  table.provenance = "made up, with \"quotes\"";
  table.entries = {{8, 4, 16, false, "gemm_128x32x128_streamk"}, {8, 4, 8, true, "batch_32x8x128"}};
  const std::string text = to_text(table);
  EXPECT_THAT(text, HasSubstr("    {\"n\": 8, \"k\": 4, \"m_max\": 16, \"overlap\": false, \"schedule\": "
                              "\"gemm_128x32x128_streamk\"},\n"));
  EXPECT_THAT(text, Not(HasSubstr("a_types")));
  const Result<TableFile> back = parse_table(text, "t.json");
  ASSERT_TRUE(back.ok()) << back.status().message();
  EXPECT_EQ(to_text(*back), text);
  EXPECT_EQ(back->provenance, table.provenance);

  table.a_types = {DataType::kS8};
  const Result<TableFile> eight = parse_table(to_text(table), "t.json");
  ASSERT_TRUE(eight.ok()) << eight.status().message();
  EXPECT_EQ(eight->a_types, table.a_types);
  EXPECT_THAT(to_text(table), Not(HasSubstr("group_sizes")));

  table.group_sizes = {16, 32};
  EXPECT_THAT(to_text(table), HasSubstr("  \"group_sizes\": [16, 32],\n"));
  const Result<TableFile> small = parse_table(to_text(table), "t.json");
  ASSERT_TRUE(small.ok()) << small.status().message();
  EXPECT_EQ(small->group_sizes, table.group_sizes);

  for (const char* wrong : {"", "[]", "{}", R"({"gpu": 1, "provenance": "", "w_types": [], "entries": []})",
                            R"({"gpu": "", "provenance": "", "w_types": ["u5"], "entries": []})",
                            R"({"gpu": "", "provenance": "", "w_types": [1], "entries": []})",
                            R"({"gpu": "", "provenance": "", "w_types": [], "group_sizes": ["32"], "entries": []})",
                            R"({"gpu": "", "provenance": "", "w_types": [], "entries": [{"n": 1}]})"}) {
    const Result<TableFile> refused = parse_table(wrong, "t.json");
    ASSERT_FALSE(refused.ok()) << wrong;
    EXPECT_THAT(refused.status().message(), HasSubstr("t.json is not a tuning table"));
  }
}

// The tables that are shipped are written as this writes them.
TEST(TableText, IsThatOfTheShippedTables) {
  int count = 0;
  for (const auto& file : std::filesystem::directory_iterator(MACHETE_TABLES)) {
    if (file.path().extension() != ".json") continue;
    const Result<TableFile> table = read_table(file.path().string());
    ASSERT_TRUE(table.ok()) << table.status().message();
    std::ifstream stream(file.path());
    const std::string text{std::istreambuf_iterator<char>(stream), {}};
    EXPECT_EQ(to_text(*table), text) << file.path();
    ++count;
  }
  EXPECT_GT(count, 0);
}

class Tune : public tests::FolderTest {
 protected:
  Request request() const {
    Request result;
    result.path = path("t.json");
    Setting& setting = result.setting;
    setting.gpu = "NVIDIA H100 80GB HBM3";
    setting.driver = "1.2";
    setting.cuda = "13.0";
    setting.commit = "abc";
    setting.date = "2026-01-02";
    setting.sizes = {{64, 128}, {32, 64}};
    setting.ms = {1, 64, 96};
    setting.top = 14;
    return result;
  }

  // As many points as `budget`; then the device is gone.
  Status run(const Request& request, int budget = 1000) {
    measured_.clear();
    left_.clear();
    return tune(
        request,
        [&](const Point& point) -> Result<std::vector<Timing>> {
          if (budget-- == 0) return Status(StatusCode::kDevice, "the device is gone");
          measured_.push_back(point);
          return std::vector<Timing>{{"gemm_a", 5.25 + static_cast<double>(point.m)},
                                     {"batch_b", point.m > 64 ? 1000.0 : 5.0}};
        },
        [&](const Point&, std::int64_t left) { left_.push_back(left); });
  }

  bool exists(const char* name) const { return std::filesystem::exists(path(name)); }

  std::vector<Point> measured_;
  std::vector<std::int64_t> left_;
};

TEST_F(Tune, WritesATable) {
  const Status status = run(request());
  ASSERT_TRUE(status.ok()) << status.message();
  EXPECT_EQ(measured_.size(), 10u);
  EXPECT_THAT(left_, ElementsAre(10, 9, 8, 7, 6, 5, 4, 3, 2, 1));
  const Result<TableFile> table = read_table(path("t.json"));
  ASSERT_TRUE(table.ok()) << table.status().message();
  EXPECT_EQ(table->gpu, "NVIDIA H100");
  EXPECT_EQ(table->w_types, (std::vector<WeightType>{WeightType::kU4b8, WeightType::kS4}));
  EXPECT_TRUE(table->a_types.empty());
  EXPECT_EQ(
      table->provenance,
      "machete tune at commit abc on 2026-01-02, NVIDIA H100 80GB HBM3, driver 1.2, CUDA 13.0, bf16 x u4b8, group "
      "size 128");
  EXPECT_THAT(lines(table->entries), ElementsAre("32x64 64 batch_b", "32x64 96 gemm_a", "32x64 64 overlap batch_b",
                                                 "64x128 64 batch_b", "64x128 96 gemm_a", "64x128 64 overlap batch_b"));
  EXPECT_FALSE(exists("t.json.partial"));
  EXPECT_FALSE(exists("t.json.unfinished"));
  EXPECT_TRUE(exists("t.json.measurements"));

  ASSERT_TRUE(run(request()).ok());
  EXPECT_EQ(measured_.size(), 10u) << "what is done is done anew";
}

TEST_F(Tune, GoesOnWhereItWasCutShort) {
  ASSERT_TRUE(run(request()).ok());
  const std::string whole = get(path("t.json"));
  std::filesystem::remove(path("t.json"));

  const Status cut = run(request(), 4);
  EXPECT_EQ(cut.code(), StatusCode::kDevice);
  EXPECT_THAT(cut.message(), AllOf(HasSubstr("the device is gone"), HasSubstr("N=64 K=128 M=96")));
  EXPECT_FALSE(exists("t.json"));
  EXPECT_FALSE(exists("t.json.unfinished"));

  // Cut within a line: that point is measured again.
  const std::string journal = get(path("t.json.partial"));
  std::ofstream(path("t.json.partial"), std::ios::binary) << journal.substr(0, journal.size() - 3);
  Request later = request();
  later.setting.date = "2026-01-03";
  EXPECT_FALSE(run(later, 2).ok());
  EXPECT_EQ(measured_.size(), 2u);
  ASSERT_TRUE(run(later).ok());
  EXPECT_EQ(measured_.size(), 5u);
  EXPECT_THAT(left_, ElementsAre(5, 4, 3, 2, 1));
  EXPECT_EQ(get(path("t.json")), whole) << "and the date is that of the beginning";
}

TEST_F(Tune, TornFirstLineBeginsAfresh) {
  std::ofstream(path("t.json.partial"), std::ios::binary) << R"({"gpu": "NVIDIA)";
  ASSERT_TRUE(run(request()).ok());
  EXPECT_EQ(measured_.size(), 10u);
}

TEST_F(Tune, RefusesAJournalOfAnotherSetting) {
  ASSERT_FALSE(run(request(), 4).ok());
  const std::string journal = get(path("t.json.partial"));
  const auto refused = [&](void (*change)(Setting&)) {
    Request other = request();
    change(other.setting);
    const Status status = run(other);
    EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
    EXPECT_THAT(status.message(), AllOf(HasSubstr("t.json.partial"), HasSubstr("remove the file")));
    EXPECT_TRUE(measured_.empty());
    EXPECT_EQ(get(path("t.json.partial")), journal);
    return status.message();
  };
  EXPECT_THAT(refused([](Setting& s) { s.gpu = "NVIDIA H200"; }),
              AllOf(HasSubstr("gpu \"NVIDIA H100 80GB HBM3\""), HasSubstr("\"NVIDIA H200\"")));
  EXPECT_THAT(refused([](Setting& s) { s.commit = "def"; }), HasSubstr("commit \"abc\""));
  EXPECT_THAT(refused([](Setting& s) { s.top = 3; }), HasSubstr("top 14, where this run has 3"));
  EXPECT_THAT(refused([](Setting& s) { s.ms.push_back(128); }), HasSubstr("m [1,64,96]"));
  EXPECT_THAT(refused([](Setting& s) { s.sizes.pop_back(); }), HasSubstr("32x64"));
  EXPECT_THAT(refused([](Setting& s) { s.a_type = DataType::kS8; }), HasSubstr("bf16"));
  EXPECT_THAT(refused([](Setting& s) { s.w_type = WeightType::kU4; }), HasSubstr("u4b8"));
  EXPECT_THAT(refused([](Setting& s) { s.group_size = 64; }), HasSubstr("group-size 128"));
  EXPECT_THAT(refused([](Setting& s) { s.without = {"decode"}; }), HasSubstr("decode"));
  EXPECT_TRUE(run(request()).ok());
  EXPECT_EQ(measured_.size(), 6u);
}

TEST_F(Tune, NoticesADamagedJournal) {
  ASSERT_FALSE(run(request(), 4).ok());
  std::string journal = get(path("t.json.partial"));
  const std::size_t second = journal.find('\n') + 1;
  for (const char* line : {"{", "{}\n", "7\n",
                           R"({"n":1,"k":1,"m":1,"overlap":false,"us":{"a":"b"}})"
                           "\n"}) {
    std::ofstream(path("t.json.partial"), std::ios::binary)
        << journal.substr(0, second) << line << journal.substr(second);
    const Status status = run(request());
    EXPECT_EQ(status.code(), StatusCode::kCorrupt) << line;
    EXPECT_THAT(status.message(), HasSubstr("line 2")) << line;
  }
}

TEST_F(Tune, MergesATableOfItsKind) {
  Request merging = request();
  TableFile kept;
  kept.gpu = "NVIDIA H100";
  kept.w_types = {WeightType::kS4, WeightType::kU4b8};
  kept.provenance = "an older one";
  kept.entries = {{64, 128, 64, false, "old"}, {64, 128, 512, false, "old"}, {8, 8, 8, false, "old"}};
  merging.kept = kept;
  ASSERT_TRUE(run(merging).ok());
  const Result<TableFile> table = read_table(path("t.json"));
  ASSERT_TRUE(table.ok());
  EXPECT_THAT(lines(table->entries),
              ElementsAre("8x8 8 old", "32x64 64 batch_b", "32x64 96 gemm_a", "32x64 64 overlap batch_b",
                          "64x128 64 batch_b", "64x128 96 gemm_a", "64x128 512 old", "64x128 64 overlap batch_b"));
  EXPECT_THAT(table->provenance, HasSubstr("group size 128; elsewhere an older one"));
  merging.kept = *table;  // measured in parts
  ASSERT_TRUE(run(merging).ok());
  EXPECT_EQ(read_table(path("t.json"))->provenance, table->provenance);

  const auto refused = [&](const TableFile& other) {
    merging.kept = other;
    const Status status = run(merging);
    EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
    EXPECT_TRUE(measured_.empty());
    return status.message();
  };
  TableFile other = kept;
  other.gpu = "NVIDIA H200";
  EXPECT_THAT(refused(other), HasSubstr("of GPU NVIDIA H200, where NVIDIA H100 is measured"));
  other = kept;
  other.w_types = {WeightType::kU4};
  EXPECT_THAT(refused(other), HasSubstr("weights u4, where u4b8, s4"));
  other = kept;
  other.a_types = {DataType::kS8};
  EXPECT_THAT(refused(other), HasSubstr("activations s8, where 16 bits"));
  other = kept;
  other.group_sizes = {32};
  EXPECT_THAT(refused(other), HasSubstr("groups of 32, where any size"));
}

TEST_F(Tune, NamesAGroupSizeOfItsOwn) {
  Request small = request();
  small.setting.group_size = 32;
  ASSERT_TRUE(run(small).ok());
  const Result<TableFile> table = read_table(path("t.json"));
  ASSERT_TRUE(table.ok());
  EXPECT_EQ(table->group_sizes, std::vector<std::int64_t>{32});
}

TEST_F(Tune, NamesActivationsOf8BitsAndWhatIsLeftOut) {
  Request eight = request();
  eight.setting.a_type = DataType::kS8;
  eight.setting.w_type = WeightType::kS8;
  eight.setting.without = {"decode", "batch"};
  ASSERT_TRUE(run(eight).ok());
  const Result<TableFile> table = read_table(path("t.json"));
  ASSERT_TRUE(table.ok());
  EXPECT_EQ(table->a_types, std::vector<DataType>{DataType::kS8});
  EXPECT_EQ(table->w_types, (std::vector<WeightType>{WeightType::kS8, WeightType::kU8b128}));
  EXPECT_THAT(table->provenance, HasSubstr("s8 x s8, group size 128, without the decode and batch families"));
}

TEST_F(Tune, SaysWhereItCannotWrite) {
  Request nowhere = request();
  nowhere.path = path("missing/t.json");
  const Status status = run(nowhere);
  EXPECT_EQ(status.code(), StatusCode::kIo);
  EXPECT_THAT(status.message(), HasSubstr("missing/t.json"));
  EXPECT_TRUE(measured_.empty());
}

}  // namespace
}  // namespace machete::tuning
