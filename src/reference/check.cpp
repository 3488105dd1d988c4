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

// With the squares of what is rounded: the weight, and by itself what the nearest integer leaves of its zero point.
Rows load_weights(const QuantizedWeight& weight, std::int64_t first, std::int64_t count) {
  Rows rows{Matrix(count, weight.k), Matrix(count, weight.k)};
  const WeightReader reader(weight);
  for (std::int64_t n = 0; n < count; ++n) {
    reader.for_each_group(first + n, [&](std::int64_t k, std::int64_t end, double zero, double scale) {
      const double fraction = scale * (zero - std::nearbyint(zero));
      for (; k < end; ++k) {
        const double value = scale * (static_cast<double>(reader.value(first + n, k)) - zero);
        rows.values(n, k) = value;
        rows.squares(n, k) = value * value + fraction * fraction;
      }
    });
  }
  return rows;
}

// Products of activations and weights, and of their squares: [rows, columns of D].
struct Sums {
  Matrix values, squares;

  Sums() = default;
  Sums(const Rows& activations, const Rows& weights)
      : values(activations.values * weights.values.transpose()),
        squares(activations.squares * weights.squares.transpose()) {}
};

// The epilogue in fp64. An error e becomes at most e times the steepest slope of what it goes through; every fp32
// operation adds a rounding, every function 2^-20 of its value (and the gelus, whose halves cancel, 2^-22 of their
// argument).
class ExpectedEpilogue {
 public:
  ExpectedEpilogue(const Problem& problem, const Arguments& operands) : problem_(problem), operands_(operands) {}

  /// Of column n of D: from its sum, or with swiglu from that of gate and up.
  Uncertain operator()(std::int64_t m, std::int64_t n, Uncertain sum, Uncertain up) const {
    if (problem_.epilogue.plain()) return sum;
    Uncertain y = activated(scaled(m, n, sum));
    if (problem_.epilogue.activation == Activation::kSwiglu) {
      const Uncertain u = scaled(m, problem_.d_columns() + n, up);
      y.error = std::abs(y.value) * u.error + std::abs(u.value) * y.error + y.error * u.error;
      y.value *= u.value;
      y.error += kRounding * std::abs(y.value);
    }
    if (problem_.epilogue.residual) {
      const std::int64_t ldc = problem_.ldc > 0 ? problem_.ldc : problem_.d_columns();
      y.value += static_cast<double>(to_float(problem_.scale_type(), operands_.residual, m * ldc + n));
      y.error += kRounding * std::abs(y.value);
    }
    if (problem_.epilogue.output_scale) {  // by its reciprocal, which is rounded too
      const auto scale = static_cast<double>(*operands_.output_scale);
      y.value /= scale;
      y.error = y.error / std::abs(scale) + 2 * kRounding * std::abs(y.value);
    }
    return y;
  }

 private:
  static constexpr double kRounding = 0x1p-24;

  Uncertain scaled(std::int64_t m, std::int64_t n, Uncertain x) const {
    double factor = 1;
    if (problem_.epilogue.token_scale) factor *= static_cast<double>(operands_.token_scale[m]);
    if (problem_.epilogue.channel_scale) factor *= static_cast<double>(operands_.channel_scale[n]);
    x.value *= factor;
    x.error = x.error * std::abs(factor) + 2 * kRounding * std::abs(x.value);
    if (problem_.epilogue.bias) {
      x.value += static_cast<double>(to_float(problem_.scale_type(), operands_.bias, n));
      x.error += kRounding * std::abs(x.value);
    }
    return x;
  }

  // The exponential is of a rounded multiple of the argument, and may be 0 for what is no normal number.
  static Uncertain silu(Uncertain y, double argument) {
    y.error += 0x1p-22 * std::abs(argument * y.value) + 0x1p-118;
    return y;
  }

  Uncertain activated(Uncertain x) const {
    const double v = x.value;
    const auto result = [](double value, double slope, Uncertain of, double of_argument) {
      return Uncertain{value, slope * of.error + 0x1p-20 * std::abs(value) + of_argument * std::abs(of.value)};
    };
    switch (problem_.epilogue.activation) {
      case Activation::kNone:
        return x;
      case Activation::kRelu:
        return {v < 0 ? 0 : v, x.error};
      case Activation::kSilu:
      case Activation::kSwiglu:
        return silu(result(v / (1 + std::exp(-v)), 1.1, x, 0), v);
      case Activation::kGelu:
        return result(v / 2 * (1 + std::erf(v / std::sqrt(2.0))), 1.13, x, 0x1p-22);
      case Activation::kGeluTanh:
        return result(v / 2 * (1 + std::tanh(std::sqrt(2 / 3.14159265358979324) * (v + 0.044715 * v * v * v))), 1.13, x,
                      0x1p-22);
    }
    return x;
  }

  const Problem& problem_;
  const Arguments& operands_;
};

}  // namespace

ErrorReport check_linear(const Problem& problem, const void* a, const QuantizedWeight& weight, const void* d,
                         const Arguments& operands) {
  const std::int64_t lda = problem.lda > 0 ? problem.lda : problem.k;
  const std::int64_t columns = problem.d_columns();
  const std::int64_t ldd = problem.ldd > 0 ? problem.ldd : columns;
  const std::int64_t blocks = (columns + kBlockN - 1) / kBlockN;
  const bool swiglu = problem.epilogue.activation == Activation::kSwiglu;
  const ExpectedEpilogue epilogue(problem, operands);
  const double product = product_roundoff(problem);
  std::vector<Tally> tallies(static_cast<std::size_t>(blocks));  // one a block: the sums do not depend on threads

  for (std::int64_t m0 = 0; m0 < problem.m; m0 += kBlockM) {
    const std::int64_t rows = std::min(kBlockM, problem.m - m0);
    const Rows activations = load_rows(problem, lda, a, m0, rows);
    const Eigen::VectorXd sum_a2 = activations.squares.rowwise().sum();
#pragma omp parallel for schedule(dynamic)
    for (std::int64_t block = 0; block < blocks; ++block) {
      const std::int64_t n0 = block * kBlockN;
      const std::int64_t count = std::min(kBlockN, columns - n0);
      const Sums sums(activations, load_weights(weight, n0, count));
      const Sums up = swiglu ? Sums(activations, load_weights(weight, columns + n0, count)) : Sums();
      const auto sum_of = [&](const Sums& from, std::int64_t m, std::int64_t n) {
        return Uncertain{from.values(m, n),
                         sum_bound(from.squares(m, n), sum_a2(m), problem.k, problem.a_type, product)};
      };
      Tally tally;
      for (std::int64_t m = 0; m < rows; ++m) {
        for (std::int64_t n = 0; n < count; ++n) {
          const double found = static_cast<double>(to_float(problem.d_type, d, (m0 + m) * ldd + n0 + n));
          const Uncertain expected = within_range(
              epilogue(m0 + m, n0 + n, sum_of(sums, m, n), swiglu ? sum_of(up, m, n) : Uncertain{}), problem.d_type);
          const double bound = store_bound(expected.error, std::abs(expected.value), problem.d_type);
          const double error = found - expected.value;
          tally.add({error_ratio(found, expected.value, bound, problem.d_type), m0 + m, n0 + n, error * error,
                     expected.value * expected.value});
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
