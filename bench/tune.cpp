#include "bench/tune.h"

#include <algorithm>
#include <cstddef>
#include <utility>

#include "bench/suite.h"
#include "bench/timer.h"
#include "machete/linear.h"

namespace machete::bench {
namespace {

// What the short round finds slower by more than this is not the best.
constexpr double kMargin = 1.12;

}  // namespace

Result<std::vector<tuning::Size>> sizes_of_suites(const std::vector<std::string>& names) {
  std::vector<tuning::Size> sizes;
  for (const std::string& name : names.empty() ? suite_names() : names) {
    const Result<Suite> suite = find_suite(name);
    if (!suite.ok()) return suite.status();
    for (const Shape& shape : suite->shapes) sizes.push_back({shape.n, shape.k});
  }
  return sizes;
}

Suite Tuner::suite_of(const tuning::Size& size) const { return {"", {{to_string(size), size.n, size.k}}, false}; }

RotatedWeight::Options Tuner::weight_options() const {
  RotatedWeight::Options options;
  options.a_type = setting_.a_type;
  options.w_type = setting_.w_type;
  options.group_size = setting_.group_size;
  options.dense = false;
  options.l2_bytes = runner_.facts().l2_bytes;
  options.device = runner_.device();
  return options;
}

Status Tuner::set_up(tuning::Setting& setting, int device) {
  if (Status status = runner_.set_up(device); !status.ok()) return status;
  const Machine& machine = runner_.facts().machine;
  setting.gpu = machine.gpu;
  setting.driver = machine.driver;
  setting.cuda = machine.cuda;
  setting_ = setting;
  max_m_ = *std::max_element(setting.ms.begin(), setting.ms.end());
  std::size_t bytes = 0;
  for (const tuning::Size& size : setting_.sizes) {
    const Result<std::size_t> needed = Runner::size_of(suite_of(size), weight_options(), max_m_, {});
    if (!needed.ok()) return in_context(needed.status(), to_string(size));
    bytes = std::max(bytes, *needed);
  }
  return runner_.allocate(bytes);
}

Result<std::vector<tuning::Timing>> Tuner::measure(const tuning::Point& point) {
  if (!stage_.has_value() || staged_.n != point.n || staged_.k != point.k) {
    staged_ = {point.n, point.k};
    stage_.reset();
    if (const Result<double> read = runner_.settle(); !read.ok()) return read.status();
    Result<Stage> stage = runner_.set_stage(suite_of(staged_), weight_options(), max_m_, {});
    if (!stage.ok()) return stage.status();
    stage_ = std::move(*stage);
  }
  const RotatedWeight& weight = stage_->weights.front();
  const Problem problem = problem_of(weight, point.m, setting_.a_type, setting_.group_size, {});
  PlanOptions plan_options;
  plan_options.device = runner_.device();
  plan_options.overlap = point.overlap;
  const Result<std::vector<ScheduleChoice>> choices = list_schedules(problem, plan_options);
  if (!choices.ok()) return choices.status();

  std::vector<Plan> plans;
  for (const std::string& name : tuning::worth_measuring(*choices, setting_.top, setting_.without)) {
    plan_options.schedule = name;
    Result<Plan> plan = machete::plan(problem, plan_options);
    if (!plan.ok()) return plan.status();
    plans.push_back(std::move(*plan));
  }
  if (plans.empty()) return std::vector<tuning::Timing>{};
  if (Status status = runner_.reserve_workspace(plans); !status.ok()) return status;
  std::vector<Contender> contenders;
  for (const Plan& plan : plans) contenders.push_back(runner_.contender(plan, weight, *stage_));
  const Result<std::vector<double>> us = time_fastest(contenders, runner_.stream(), kMargin);
  if (!us.ok()) return us.status();
  std::vector<tuning::Timing> times;
  for (std::size_t i = 0; i < plans.size(); ++i) times.push_back({plans[i].schedule(), (*us)[i]});
  return times;
}

}  // namespace machete::bench
