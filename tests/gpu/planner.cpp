#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <numeric>
#include <random>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "bench/runner.h"
#include "bench/suite.h"
#include "bench/timer.h"
#include "tests/gpu/workbench.h"

// What the planner picks, against every schedule on the GPU at hand, timed as the benchmark times them.
namespace machete::tests {
namespace {

constexpr bench::Effort kSecondLook{2000, 9};
constexpr std::size_t kSuspects = 3;

std::string name_of(const bench::Shape& shape) { return fmt::format("{} x {}", shape.n, shape.k); }

class PlannerChoice : public GpuTest {
 protected:
  struct Finding {
    std::string chosen;
    std::string best;
    double chosen_us = 0;
    double best_us = 0;

    double ratio() const { return chosen_us / best_us; }
  };

  void SetUp() override {
    GpuTest::SetUp();
    if (IsSkipped() || HasFatalFailure()) return;
    if (std::getenv("MACHETE_TEST_PLANNER") == nullptr) {
      GTEST_SKIP() << "timings of the card at hand, which other work on it disturbs; make planner-test takes them";
    }
    require(runner_.set_up(0));
  }

  void allocate_for(const std::vector<bench::Shape>& shapes, std::int64_t max_m) {
    std::size_t bytes = 0;
    for (const bench::Shape& shape : shapes) {
      bytes = std::max(bytes, require(bench::Runner::size_of(suite_of(shape), weight_options(), max_m, {})));
    }
    require(runner_.allocate(bytes));
    require(runner_.settle());
  }

  bench::Stage stage_of(const bench::Shape& shape, std::int64_t max_m) {
    return require(runner_.set_stage(suite_of(shape), weight_options(), max_m, {}));
  }

  // A short round of all schedules; then the choice again beside those that seem to beat it by more than half of what
  // is allowed, and, before it is found too slow, once more at length.
  Finding find(const bench::Stage& stage, std::int64_t m, double allowed) {
    const bench::RotatedWeight& weight = stage.weights.front();
    const Problem problem = bench::problem_of(weight, m, DataType::kBf16, kGroupSize, {});
    PlanOptions options = on_cuda();
    std::vector<Plan> plans = {require(plan(problem, options))};
    for (const std::string& name : schedules_of(problem)) {
      if (name == plans.front().schedule()) continue;
      options.schedule = name;
      plans.push_back(require(plan(problem, options)));
    }
    require(runner_.reserve_workspace(plans));

    std::vector<std::size_t> timed(plans.size());
    std::iota(timed.begin(), timed.end(), std::size_t{0});
    Finding found = time(plans, timed, weight, stage, bench::kShortRound);
    keep_suspects(timed, 1 + (allowed - 1) / 2);
    for (const bench::Effort& effort : {kSecondLook, bench::Effort{}}) {
      if (timed.size() == 1) break;
      found = time(plans, timed, weight, stage, effort);
      keep_suspects(timed, allowed);
    }
    return found;
  }

  void note(const Finding& found, double allowed, const std::string& what, const std::string& repro) {
    EXPECT_LE(found.ratio(), allowed) << fmt::format("{}: {} takes {:.2f} us, where {} takes {:.2f}\n  repro: {}", what,
                                                     found.chosen, found.chosen_us, found.best, found.best_us, repro);
    log_sum_ += std::log(found.ratio());
    ++count_;
    if (found.ratio() <= worst_) return;
    worst_ = found.ratio();
    worst_what_ = fmt::format("{}, {} for {}", what, found.chosen, found.best);
  }

  void summarise(const std::string& what) {
    ASSERT_GT(count_, 0);
    fmt::print(
        "{}: the choice takes {:.3f} times the best schedule's time (geometric mean of {}), at worst {:.3f} ({})\n",
        what, std::exp(log_sum_ / count_), count_, worst_, worst_what_);
  }

  static constexpr std::int64_t kGroupSize = 128;

 private:
  static bench::Suite suite_of(const bench::Shape& shape) { return {"", {shape}, false}; }

  bench::RotatedWeight::Options weight_options() const {
    bench::RotatedWeight::Options options;
    options.group_size = kGroupSize;
    options.dense = false;
    options.l2_bytes = runner_.facts().l2_bytes;
    options.device = runner_.device();
    return options;
  }

  // Of the plans those that are named, the first of which is the choice. Leaves their times in us_.
  Finding time(const std::vector<Plan>& plans, const std::vector<std::size_t>& timed,
               const bench::RotatedWeight& weight, const bench::Stage& stage, const bench::Effort& effort) {
    std::vector<bench::Contender> contenders;
    for (const std::size_t i : timed) contenders.push_back(runner_.contender(plans[i], weight, stage));
    us_ = require(bench::time_in_turn(contenders, runner_.stream(), effort));
    const auto best = static_cast<std::size_t>(std::min_element(us_.begin(), us_.end()) - us_.begin());
    return {plans.front().schedule(), plans[timed[best]].schedule(), us_.front(), us_[best]};
  }

  // The choice, and the few fastest of those that it is slower than by more than a factor.
  void keep_suspects(std::vector<std::size_t>& timed, double factor) const {
    std::vector<std::pair<double, std::size_t>> suspects;
    for (std::size_t i = 1; i < timed.size(); ++i) {
      if (us_[i] * factor < us_.front()) suspects.emplace_back(us_[i], timed[i]);
    }
    std::sort(suspects.begin(), suspects.end());
    timed.resize(1);
    for (std::size_t i = 0; i < std::min(suspects.size(), kSuspects); ++i) timed.push_back(suspects[i].second);
  }

  bench::Runner runner_;
  std::vector<double> us_;
  double log_sum_ = 0;
  int count_ = 0;
  double worst_ = 0;
  std::string worst_what_;
};

TEST_F(PlannerChoice, IsNearTheBestOnTheSuites) {
  constexpr std::int64_t kMs[] = {1, 16, 64, 128, 512, 2048};
  std::set<std::pair<std::int64_t, std::int64_t>> seen;
  std::vector<bench::Shape> shapes;
  for (const std::string& name : bench::suite_names()) {
    for (const bench::Shape& shape : require(bench::find_suite(name)).shapes) {
      if (seen.insert({shape.n, shape.k}).second) shapes.push_back({name + " " + shape.name, shape.n, shape.k});
    }
  }
  const auto choices = require(list_schedules(make_problem(DataType::kBf16, 16, 4096, 4096), on_cuda()));
  if (choices.front().reason.rfind("measured best", 0) != 0) {
    GTEST_SKIP() << "no tuning table of this GPU: `machete tune` makes one";
  }
  allocate_for(shapes, 2048);
  for (const bench::Shape& shape : shapes) {
    const bench::Stage stage = stage_of(shape, 2048);
    for (const std::int64_t m : kMs) {
      const double allowed = m <= 64 ? 1.05 : 1.04;
      const std::size_t space = shape.name.find(' ');
      note(find(stage, m, allowed), allowed, fmt::format("{} ({}), M={}", shape.name, name_of(shape), m),
           fmt::format("machete bench --suite {} --linear {} --m {} --a bf16 --all-schedules --no-cublas",
                       shape.name.substr(0, space), shape.name.substr(space + 1), m));
    }
  }
  summarise("suites");
}

// Shapes that no table has. --gtest_random_seed makes up others.
TEST_F(PlannerChoice, IsNearTheBestOnShapesThatNoTableHas) {
  constexpr int kShapes = 8;
  constexpr int kMsEach = 5;
  constexpr double kAllowed = 1.10;
  constexpr std::int64_t kMostM = 4096;
  const auto seed = static_cast<std::uint32_t>(::testing::FLAGS_gtest_random_seed);
  std::mt19937 random(seed);
  // As many between 1 and 2 as between 512 and 1024. Of the engine's numbers alone, so that a seed means the same
  // shapes everywhere.
  const auto draw = [&](std::int64_t least, std::int64_t most) {
    const double part = static_cast<double>(random()) / 4294967296.0;
    const auto low = static_cast<double>(least);
    return static_cast<std::int64_t>(low * std::pow(static_cast<double>(most) / low, part));
  };
  std::vector<bench::Shape> shapes;
  while (shapes.size() < kShapes) {
    const bench::Shape shape{"", 64 * draw(8, 512), 64 * draw(8, 256)};
    const auto choices = require(list_schedules(make_problem(DataType::kBf16, 16, shape.n, shape.k), on_cuda()));
    if (choices.front().reason.rfind("measured best", 0) != 0) shapes.push_back(shape);
  }
  allocate_for(shapes, kMostM);
  for (const bench::Shape& shape : shapes) {
    const bench::Stage stage = stage_of(shape, kMostM);
    for (int i = 0; i < kMsEach; ++i) {
      const std::int64_t m = draw(1, kMostM);
      note(find(stage, m, kAllowed), kAllowed, fmt::format("{}, M={}", name_of(shape), m),
           fmt::format("gpu_tests --gtest_filter=PlannerChoice.* --gtest_random_seed={}; or machete tune --shape {}x{} "
                       "--m {} --top 1000 -o one.json, and look into one.json.measurements",
                       seed, shape.n, shape.k, m));
    }
  }
  summarise(fmt::format("shapes that no table has, seed {}", seed));
}

}  // namespace
}  // namespace machete::tests
