#include <Eigen/Core>
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <vector>

#include "reference/bound.h"
#include "reference/dequantize.h"
#include "reference/numeric.h"

namespace machete::reference {
namespace {

constexpr std::int64_t kBlockM = 64;  // bound the memory: (kBlockM + threads * kBlockN) rows of 2 K doubles
constexpr std::int64_t kBlockN = 32;

using Matrix = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

// What rounds to infinity: the largest finite number and half a step.
double overflow_threshold(DataType type) {
  return type == DataType::kF16 ? 65520 : type == DataType::kBf16 ? 0x1.FFp127 : 0x1.FFFFFFp127;
}

double error_ratio(double found, double expected, double bound, DataType type) {
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  if (std::isfinite(found) && std::isfinite(expected)) return std::abs(found - expected) / bound;
  if (std::isnan(expected)) return std::isnan(found) ? 0 : kInfinity;  // NaN or Inf - Inf among the activations
  const bool overflows = std::abs(expected) + bound >= overflow_threshold(type);
  return std::isinf(found) && overflows && std::signbit(found) == std::signbit(expected) ? 0 : kInfinity;
}

// What a part of D contributes to the report.
struct Tally {
  double max_ratio = -1;
  std::int64_t m = -1, n = -1;
  double error2 = 0, reference2 = 0;

  void add(const Tally& other) {
    if (other.max_ratio > max_ratio) {
      max_ratio = other.max_ratio;
      m = other.m;
      n = other.n;
    }
    error2 += other.error2;
    reference2 += other.reference2;
  }
};

// fp64 activations of some rows, and their squares.
struct Rows {
  Matrix values, squares;  // [rows, K]
};

Rows load_rows(const Problem& problem, std::int64_t lda, const void* a, std::int64_t first, std::int64_t count) {
  Rows rows{Matrix(count, problem.k), Matrix()};
  std::vector<float> row(static_cast<std::size_t>(problem.k));
  for (std::int64_t m = 0; m < count; ++m) {
    to_floats(problem.a_type, a, (first + m) * lda, problem.k, row.data());
    rows.values.row(m) = Eigen::Map<const Eigen::RowVectorXf>(row.data(), problem.k).cast<double>();
  }
  rows.squares = rows.values.cwiseAbs2();
  return rows;
}

Rows load_weights(const QuantizedWeight& weight, std::int64_t first, std::int64_t count) {
  Rows rows{Matrix(count, weight.k), Matrix()};
  const WeightReader reader(weight);
  for (std::int64_t n = 0; n < count; ++n) {
    reader.for_each_group(first + n, [&](std::int64_t k, std::int64_t end, double zero, double scale) {
      for (; k < end; ++k) rows.values(n, k) = scale * (reader.code(first + n, k) - zero);
    });
  }
  rows.squares = rows.values.cwiseAbs2();
  return rows;
}

}  // namespace

ErrorReport check_linear(const Problem& problem, const void* a, const QuantizedWeight& weight, const void* d) {
  const std::int64_t lda = problem.lda > 0 ? problem.lda : problem.k;
  const std::int64_t ldd = problem.ldd > 0 ? problem.ldd : problem.n;
  const std::int64_t blocks_n = (problem.n + kBlockN - 1) / kBlockN;
  std::vector<Tally> tallies(static_cast<std::size_t>(blocks_n));  // one a block: the sums do not depend on threads

  for (std::int64_t m0 = 0; m0 < problem.m; m0 += kBlockM) {
    const std::int64_t rows = std::min(kBlockM, problem.m - m0);
    const Rows activations = load_rows(problem, lda, a, m0, rows);
    const Eigen::VectorXd sum_a2 = activations.squares.rowwise().sum();
#pragma omp parallel for schedule(dynamic)
    for (std::int64_t block = 0; block < blocks_n; ++block) {
      const std::int64_t n0 = block * kBlockN;
      const Rows weights = load_weights(weight, n0, std::min(kBlockN, problem.n - n0));
      const Matrix expected = activations.values * weights.values.transpose();   // [rows, kBlockN]
      const Matrix sum_aw2 = activations.squares * weights.squares.transpose();  // [rows, kBlockN]
      Tally tally;
      for (std::int64_t m = 0; m < expected.rows(); ++m) {
        for (std::int64_t n = 0; n < expected.cols(); ++n) {
          const double found = static_cast<double>(to_float(problem.d_type, d, (m0 + m) * ldd + n0 + n));
          const double bound = element_bound(sum_aw2(m, n), sum_a2(m), std::abs(expected(m, n)), problem.k,
                                             problem.a_type, problem.d_type);
          const double error = found - expected(m, n);
          tally.add({error_ratio(found, expected(m, n), bound, problem.d_type), m0 + m, n0 + n, error * error,
                     expected(m, n) * expected(m, n)});
        }
      }
      tallies[static_cast<std::size_t>(block)].add(tally);
    }
  }

  Tally total;
  for (const Tally& tally : tallies) total.add(tally);
  ErrorReport report;
  report.max_ratio = std::max(0.0, total.max_ratio);
  report.worst_m = total.m;
  report.worst_n = total.n;
  report.rel_frobenius = std::sqrt(total.reference2 > 0 ? total.error2 / total.reference2 : total.error2);
  report.passed = report.max_ratio <= 1;
  return report;
}

}  // namespace machete::reference
