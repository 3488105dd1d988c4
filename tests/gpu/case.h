#pragma once

#include <cstdint>
#include <optional>
#include <ostream>
#include <string>
#include <vector>

#include "machete/linear.h"
#include "machete/problem.h"
#include "testing/random.h"

namespace machete::tests {

/// One linear to run and check. Printing it gives the line that reproduces it.
struct Case {
  Problem problem;
  std::string schedule = {};  // empty: the planner's choice
  testing::ActivationFill activations = testing::ActivationFill::kNormal;
  std::optional<std::int64_t> identity_from = {};  // A is the unit matrix from this row on instead
  testing::ScaleFill scales = testing::ScaleFill::kRandom;
  std::optional<DataType> scale_type = {};  // of the canonical form; else the problem's
  bool fractional_zero_points = false;      // of types that have them
  bool wide_zero_points = false;            // fractional ones also below the codes and beyond
  float tensor_scale = 1;
  std::uint64_t seed = 1;         // of the activations
  std::uint64_t weight_seed = 1;  // of qweight and scales
};
std::ostream& operator<<(std::ostream& out, const Case& c);

inline PlanOptions on_cuda() {
  PlanOptions options;
  options.device = Device::cuda();
  return options;
}

/// A problem whose activations and outputs have one type; with 8-bit activations outputs are bf16.
Problem make_problem(DataType type, std::int64_t m, std::int64_t n, std::int64_t k, std::int64_t group_size = 128);

inline std::int64_t lda_of(const Problem& p) { return p.lda > 0 ? p.lda : p.k; }
inline std::int64_t ldd_of(const Problem& p) { return p.ldd > 0 ? p.ldd : p.n; }

/// The names of every schedule that serves the problem on the GPU; never empty: throws instead, since a test over an
/// empty list would pass without having run anything.
std::vector<std::string> schedules_of(const Problem& problem);

inline constexpr DataType kActivationTypes[] = {DataType::kBf16, DataType::kF16};
inline constexpr DataType kEveryActivationType[] = {DataType::kBf16, DataType::kF16, DataType::kS8, DataType::kE4m3};

/// A weight type with activations that meet it.
struct Pair {
  WeightType w_type;
  DataType a_type;
  DataType d_type = DataType::kBf16;  // and of scales, beside 8-bit activations
};

/// A problem of the pair's types.
Problem make_problem(const Pair& pair, std::int64_t m, std::int64_t n, std::int64_t k, std::int64_t group_size = 128);

/// Whether this build has kernels for the pair.
bool served(const Pair& pair);

}  // namespace machete::tests
