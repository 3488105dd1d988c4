#include "tests/gpu/case.h"

#include <sstream>
#include <stdexcept>

namespace machete::tests {
namespace {

const char* name_of_fill(testing::ActivationFill fill) {
  switch (fill) {
    case testing::ActivationFill::kUniform:
      return "uniform";
    case testing::ActivationFill::kNormal:
      return "normal";
    case testing::ActivationFill::kIntegers:
      return "integers";
    case testing::ActivationFill::kOutliers:
      return "outliers";
  }
  return "?";
}

const char* name_of_fill(testing::ScaleFill fill) {
  switch (fill) {
    case testing::ScaleFill::kRandom:
      return "random";
    case testing::ScaleFill::kPowersOfTwo:
      return "powers_of_two";
    case testing::ScaleFill::kOne:
      return "one";
    case testing::ScaleFill::kBlocks:
      return "blocks";
  }
  return "?";
}

}  // namespace

std::ostream& operator<<(std::ostream& out, const Case& c) {
  const Problem& p = c.problem;
  out << "repro: m=" << p.m << " n=" << p.n << " k=" << p.k << " a=" << name_of(p.a_type) << " w=" << name_of(p.w_type)
      << " group=" << p.group_size << (p.fast_accumulation ? " fast" : "") << " lda=" << lda_of(p)
      << " ldd=" << ldd_of(p) << " activations=";
  if (c.identity_from.has_value()) {
    out << "identity_from_" << *c.identity_from;
  } else {
    out << name_of_fill(c.activations);
  }
  return out << " scales=" << name_of_fill(c.scales) << " of " << name_of(c.scale_type.value_or(p.scale_type()))
             << (c.wide_zero_points ? " wide" : "") << (c.fractional_zero_points ? " fractional_zero_points" : "")
             << (p.act_order ? " act_order" : "") << " tensor_scale=" << c.tensor_scale << " seed=" << c.seed
             << " weight_seed=" << c.weight_seed << " schedule=" << (c.schedule.empty() ? "(planner's)" : c.schedule);
}

Problem make_problem(DataType type, std::int64_t m, std::int64_t n, std::int64_t k, std::int64_t group_size) {
  Problem problem;
  problem.m = m;
  problem.n = n;
  problem.k = k;
  problem.a_type = type;
  problem.d_type = bits_of(type) == 16 ? type : DataType::kBf16;
  problem.group_size = group_size;
  return problem;
}

Problem make_problem(const Pair& pair, std::int64_t m, std::int64_t n, std::int64_t k, std::int64_t group_size) {
  Problem problem = make_problem(pair.a_type, m, n, k, group_size);
  problem.w_type = pair.w_type;
  if (bits_of(pair.a_type) == 8) problem.d_type = pair.d_type;
  return problem;
}

bool served(const Pair& pair) {
  const Problem problem = make_problem(pair, 1, 64, 64);
  const auto choices = list_schedules(problem, on_cuda());  // an error where no activations of the type meet the weight
  return choices.ok() && !choices->empty();
}

std::vector<std::string> schedules_of(const Problem& problem) {
  const Result<std::vector<ScheduleChoice>> choices = list_schedules(problem, on_cuda());
  std::ostringstream where;
  where << Case{problem};
  if (!choices.ok()) throw std::runtime_error("list_schedules: " + choices.status().message() + "; " + where.str());
  if (choices->empty()) throw std::runtime_error("list_schedules gives no schedule; " + where.str());
  std::vector<std::string> names;
  for (const ScheduleChoice& choice : *choices) names.push_back(choice.name);
  return names;
}

}  // namespace machete::tests
