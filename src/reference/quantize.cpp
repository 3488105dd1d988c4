#include "reference/quantize.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <string>
#include <utility>

#include "kernels/convert/coding.h"
#include "reference/bound.h"
#include "reference/numeric.h"

namespace machete::reference {
namespace {

using convert::Coding;

constexpr std::int64_t kMaxSize = std::int64_t{1} << 30;

// How a group is represented: value = scale * (u - zero), scale > 0, u from 0 to max_code. Types without zero points
// know the middle, 8 or 128, and the code below as its mirror image under a negative scale.
struct Grid {
  float scale = 1;
  int zero = 8;
  int max_code = 15;

  float low() const { return static_cast<float>(-zero); }
  float high() const { return static_cast<float>(max_code - zero); }
};

// The elements of a group divided by its largest magnitude, so that nothing below overflows or underflows.
struct Group {
  const float* values = nullptr;
  std::int64_t count = 0;
  double unit = 1;  // the largest magnitude
  float lowest = 0, highest = 0;
};

// To nearest, ties to even, for magnitudes below 2^22: adding 1.5 * 2^23 leaves no room for a fraction. Unlike
// std::nearbyint it vectorises on every machine.
inline float round_to_integer(float x) {
  constexpr float kShift = 12582912.0f;
  return (x + kShift) - kShift;
}

inline float code_of(float value, float inverse_scale, float low, float high) {
  const float x = value * inverse_scale;
  const float above = x < low ? low : x;
  return round_to_integer(above > high ? high : above);
}

// With c the codes that `grid` gives: the least squares scale is xc / cc, and the squared error falls by xc^2 / cc.
struct Fit {
  float xc = 0, cc = 0;
  float gain() const { return cc > 0 ? xc * xc / cc : 0; }
  float scale() const { return cc > 0 ? xc / cc : 0; }
};

Fit fit(const Group& group, const Grid& grid) {
  const float inverse = 1 / grid.scale;
  const float low = grid.low();
  const float high = grid.high();
  float xc = 0;
  float cc = 0;
#pragma omp simd reduction(+ : xc, cc)
  for (std::int64_t i = 0; i < group.count; ++i) {
    const float code = code_of(group.values[i], inverse, low, high);
    xc += group.values[i] * code;
    cc += code * code;
  }
  return {xc, cc};
}

double squared_error(const Group& group, const Grid& grid) {
  const float inverse = 1 / grid.scale;
  const float low = grid.low();
  const float high = grid.high();
  double sum = 0;
#pragma omp simd reduction(+ : sum)
  for (std::int64_t i = 0; i < group.count; ++i) {
    const float error = group.values[i] - grid.scale * code_of(group.values[i], inverse, low, high);
    sum += static_cast<double>(error) * static_cast<double>(error);
  }
  return sum;
}

// The scale that will be stored for `scale`: 8 significant bits, representable in the scale type, never zero.
double stored_scale(double scale, DataType type) {
  const double largest = type == DataType::kF16 ? 65280 : 0x1.FEp127;
  const double smallest = smallest_subnormal(type == DataType::kF16 ? type : DataType::kBf16);
  int exponent = 0;
  std::frexp(scale, &exponent);  // scale = [0.5, 1) * 2^exponent
  const double step = std::max(std::ldexp(1.0, exponent - 8), smallest);
  return std::clamp(std::nearbyint(scale / step) * step, smallest, largest);
}

// Looks for the best grid of one group.
class Search {
 public:
  Search(const Group& group, const Coding& coding, DataType scale_type)
      : group_(group), max_code_(coding.codes() - 1), scale_type_(scale_type) {}

  /// Rounds the scale as it will be stored, and keeps the grid if it is the best yet: the errors compared are those the
  /// user will see.
  void consider(float scale, int zero) {
    Grid grid = grid_of(scale, zero);
    grid.scale =
        static_cast<float>(stored_scale(static_cast<double>(grid.scale) * group_.unit, scale_type_) / group_.unit);
    const double error = squared_error(group_, grid);
    if (error < error_) {
      error_ = error;
      best_ = grid;
    }
  }

  /// Of the scales around the one that just holds every value, the one with the largest gain.
  void shrink(int zero) {
    const float span = std::max(zero < max_code_ ? group_.highest / static_cast<float>(max_code_ - zero) : 0.0f,
                                zero > 0 ? -group_.lowest / static_cast<float>(zero) : 0.0f);
    if (!(span > 0)) return;
    constexpr int kFirst = 17;  // times 1/16: a little room above ...
    constexpr int kLast = 6;    // ... and far below, for groups with outliers
    float best = span;
    float gain = -1;
    for (int step = kFirst; step >= kLast; --step) {
      const float scale = span * static_cast<float>(step) / 16;
      const Fit candidate = fit(group_, grid_of(scale, zero));
      if (candidate.gain() > gain) {
        gain = candidate.gain();
        best = scale;
      }
    }
    refine(best - span / 32, zero);
    refine(best + span / 32, zero);
    refine(best, zero);
  }

  const Grid& best() const { return best_; }

 private:
  Grid grid_of(float scale, int zero) const { return {scale, zero, max_code_}; }

  /// Refits the scale to the codes and the codes to the scale.
  void refine(float scale, int zero) {
    constexpr int kRounds = 3;
    for (int round = 0; round < kRounds; ++round) {
      const float fitted = fit(group_, grid_of(scale, zero)).scale();
      if (!(fitted > 0)) return;
      scale = fitted;
      consider(scale, zero);
    }
    constexpr float kStep = 1.0f / 192;  // to the neighbours among scales of 8 bits
    consider(scale * (1 - kStep), zero);
    consider(scale * (1 + kStep), zero);
  }

  const Group& group_;
  int max_code_;
  DataType scale_type_;
  Grid best_;
  double error_ = std::numeric_limits<double>::infinity();
};

// One group, all of whose numbers are finite.
Grid choose_grid(const Group& group, const Coding& coding, const QuantizeOptions& options) {
  Search search(group, coding, options.scale_type);
  const int middle = coding.middle();
  const int max_code = coding.codes() - 1;
  const auto largest = static_cast<float>(middle - 1);
  // Rounding by the largest value: to -7...7 (-127...127), or to the range that holds all values and zero.
  const float range = (group.highest - group.lowest) / static_cast<float>(max_code);
  const int zero = std::clamp(static_cast<int>(std::lround(-group.lowest / range)), 0, max_code);
  coding.has_zero_points ? search.consider(range, zero) : search.consider(1 / largest, middle);
  if (!options.search) return search.best();

  // The other common choices, so that the result is never worse than theirs; powers of two make constant groups exact.
  for (const int symmetric : {middle, middle - 1}) {
    for (const float half : {0.0f, 0.5f, 1.0f}) search.consider(1 / (largest + half), symmetric);
    search.shrink(symmetric);
  }
  if (coding.has_zero_points) {
    search.consider(1 / static_cast<float>(middle), group.lowest < 0 ? (group.highest > 0 ? middle : max_code) : 0);
    for (int near = std::max(0, zero - 2); near <= std::min(max_code, zero + 2); ++near) {
      if (near != middle - 1 && near != middle) search.shrink(near);
    }
  }
  return search.best();
}

Status invalid(std::string message) { return {StatusCode::kInvalidArgument, std::move(message)}; }

Status validate(const float* weight, std::int64_t n, std::int64_t k, const QuantizeOptions& options) {
  if (weight == nullptr) return invalid("weight is null; pass the address of N x K floats");
  for (const auto& [name, size] : {std::pair{"N", n}, std::pair{"K", k}}) {
    if (size < 1 || size > kMaxSize) {
      return invalid(fmt::format("{}={} must be at least 1 and at most 2^30", name, size));
    }
  }
  if (options.group_size != -1 && (options.group_size < 1 || options.group_size % 16 != 0)) {
    return invalid(
        fmt::format("group_size={} must be -1 (one scale per output feature) or a positive multiple of 16; "
                    "use 32, 64 or 128",
                    options.group_size));
  }
  if (convert::coding_of(options.type).bits == 0) {
    return invalid(fmt::format("weight type {} is not known; use one of WeightType's", static_cast<int>(options.type)));
  }
  if (options.scale_type != DataType::kBf16 && options.scale_type != DataType::kF16 &&
      options.scale_type != DataType::kF32) {
    return invalid(
        fmt::format("scale type {} is not known; use bf16, f16 or f32", static_cast<int>(options.scale_type)));
  }
  return {};
}

Status bad_value(const float* weight, std::int64_t k, std::int64_t index) {
  const float value = weight[index];
  const std::string where = fmt::format("weight[{}, {}]={}", index / k, index % k, value);
  if (!std::isfinite(value)) return invalid(where + " must be finite; repair the checkpoint");
  return invalid(where + " needs a scale beyond fp16's largest number, 65504; use scale type bf16");
}

// Quantises rows into a tensor whose arrays are already there.
class RowQuantizer {
 public:
  RowQuantizer(const float* weight, const QuantizeOptions& options, QuantizedTensor& tensor)
      : weight_(weight),
        options_(options),
        tensor_(tensor),
        coding_(convert::coding_of(options.type)),
        row_bytes_(tensor.view().row_bytes()),
        group_size_(options.group_size < 0 ? tensor.k : std::min(options.group_size, tensor.k)),
        limit_(options.scale_type == DataType::kF16 ? 65280.0f * static_cast<float>(coding_.middle() - 1)
                                                    : std::numeric_limits<float>::max()) {}

  std::int64_t group_size() const { return group_size_; }

  /// The column of the first value that cannot be quantised, or -1. `scratch` holds group_size() floats.
  std::int64_t run(std::int64_t n, float* scratch) const {
    const float* row = weight_ + n * tensor_.k;
    for (std::int64_t k = 0; k < tensor_.k; ++k) {
      if (!(std::abs(row[k]) <= limit_)) return k;
    }
    for (std::int64_t group = 0, k = 0; k < tensor_.k; ++group, k += group_size_) {
      run_group(n, group, k, std::min(group_size_, tensor_.k - k), scratch);
    }
    return -1;
  }

 private:
  void run_group(std::int64_t n, std::int64_t group_index, std::int64_t first, std::int64_t count,
                 float* scratch) const {
    const float* values = weight_ + n * tensor_.k + first;
    float largest = 0;
    for (std::int64_t i = 0; i < count; ++i) largest = std::max(largest, std::abs(values[i]));

    Grid grid{1, coding_.middle(), coding_.codes() - 1};  // of a group of zeros: every code the zero point
    double scale = 1;
    std::fill(scratch, scratch + count, 0.0f);
    if (largest > 0) {
      Group group{scratch, count, static_cast<double>(largest)};
      for (std::int64_t i = 0; i < count; ++i) {
        scratch[i] = static_cast<float>(static_cast<double>(values[i]) / group.unit);
        group.lowest = std::min(group.lowest, scratch[i]);
        group.highest = std::max(group.highest, scratch[i]);
      }
      grid = choose_grid(group, coding_, options_);
      scale = stored_scale(static_cast<double>(grid.scale) * group.unit, options_.scale_type);
    }

    const bool mirrored = !coding_.has_zero_points && grid.zero != coding_.middle();
    const std::int64_t at = group_index * tensor_.n + n;
    from_float(options_.scale_type, tensor_.scales.data(), at, static_cast<float>(mirrored ? -scale : scale));
    if (coding_.has_zero_points) {
      tensor_.zero_points[static_cast<std::size_t>(at)] = static_cast<std::uint8_t>(grid.zero);
    }
    std::uint8_t* bytes = tensor_.qweight.data() + n * row_bytes_;
    const float inverse = 1 / grid.scale;
    for (std::int64_t i = 0; i < count; ++i) {
      const int code = static_cast<int>(code_of(scratch[i], inverse, grid.low(), grid.high()));
      const int u = mirrored ? coding_.middle() - code : code + grid.zero;
      const unsigned q = coding_.canonical(static_cast<std::uint8_t>(u));
      std::uint8_t& byte = bytes[(first + i) * coding_.bits / 8];
      byte = static_cast<std::uint8_t>(byte | q << ((first + i) * coding_.bits % 8));
    }
  }

  const float* weight_;
  const QuantizeOptions& options_;
  QuantizedTensor& tensor_;
  Coding coding_;
  std::int64_t row_bytes_;
  std::int64_t group_size_;
  float limit_;
};

}  // namespace

QuantizedWeight QuantizedTensor::view() const {
  QuantizedWeight weight;
  weight.type = type;
  weight.n = n;
  weight.k = k;
  weight.group_size = group_size;
  weight.qweight = qweight.data();
  weight.scales = scales.data();
  weight.scale_type = scale_type;
  weight.zero_points = zero_points.empty() ? nullptr : zero_points.data();
  weight.zero_point_type = zero_point_type;
  return weight;
}

Result<QuantizedTensor> quantize(const float* weight, std::int64_t n, std::int64_t k, const QuantizeOptions& options) {
  if (Status status = validate(weight, n, k, options); !status.ok()) return status;

  QuantizedTensor tensor;
  tensor.type = options.type;
  tensor.n = n;
  tensor.k = k;
  tensor.group_size = options.group_size;
  tensor.scale_type = options.scale_type;
  const auto group_count = static_cast<std::size_t>(tensor.view().groups() * n);
  tensor.qweight.resize(static_cast<std::size_t>(n * tensor.view().row_bytes()));
  tensor.scales.resize(group_count * bytes_of(options.scale_type));
  if (has_zero_points(options.type)) tensor.zero_points.resize(group_count);

  const RowQuantizer quantizer(weight, options, tensor);
  std::int64_t first_bad = std::numeric_limits<std::int64_t>::max();
#pragma omp parallel reduction(min : first_bad)
  {
    std::vector<float> scratch(static_cast<std::size_t>(quantizer.group_size()));
#pragma omp for schedule(dynamic, 4)
    for (std::int64_t row = 0; row < n; ++row) {
      const std::int64_t column = quantizer.run(row, scratch.data());
      if (column >= 0) first_bad = std::min(first_bad, row * k + column);
    }
  }
  if (first_bad != std::numeric_limits<std::int64_t>::max()) return bad_value(weight, k, first_bad);
  return tensor;
}

}  // namespace machete::reference
