#include "reference/quantize.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstring>
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

// How a group is represented: value = scale * (v - zero), scale > 0, v what a code stands for. Integer types without
// zero points know the middle, 8 or 128, and the code below as its mirror image under a negative scale; floating-point
// types know 0.
struct Grid {
  float scale = 1;
  int zero = 0;
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

// To what a code stands for, less the zero: x is a value divided by the scale.
struct ToInteger {
  float low, high;

  ToInteger(const Coding& coding, int zero)
      : low(static_cast<float>(-zero)), high(static_cast<float>(coding.codes() - 1 - zero)) {}
  float operator()(float x) const {
    const float above = x < low ? low : x;
    return round_to_integer(above > high ? high : above);
  }
};

// To a floating-point code: a multiple of the last place at x, or of the smallest normal number's.
struct ToFloating {
  float largest;
  int smallest_exponent, mantissa_bits;

  ToFloating(const Coding& coding, int /*zero*/)
      : largest(coding.largest()), smallest_exponent(coding.smallest_exponent()), mantissa_bits(coding.mantissa_bits) {}
  float operator()(float x) const {
    const float above = x < -largest ? -largest : x;
    const float within = above > largest ? largest : above;
    std::uint32_t bits = 0;
    std::memcpy(&bits, &within, 4);
    const int exponent = static_cast<int>(bits >> 23 & 255u) - 127;
    const int last_place = (exponent < smallest_exponent ? smallest_exponent : exponent) - mantissa_bits;
    const std::uint32_t shift_bits = static_cast<std::uint32_t>(last_place + 127 + 23) << 23 | 1u << 22;
    float shift = 0;  // 1.5 * 2^23 last places: adding it leaves no room for a fraction of one
    std::memcpy(&shift, &shift_bits, 4);
    return (within + shift) - shift;
  }
};

// With c the codes that `grid` gives: the least squares scale is xc / cc, and the squared error falls by xc^2 / cc.
struct Fit {
  float xc = 0, cc = 0;
  float gain() const { return cc > 0 ? xc * xc / cc : 0; }
  float scale() const { return cc > 0 ? xc / cc : 0; }
};

template <class Round>
Fit fit(const Group& group, float scale, const Round& round) {
  const float inverse = 1 / scale;
  float xc = 0;
  float cc = 0;
#pragma omp simd reduction(+ : xc, cc)
  for (std::int64_t i = 0; i < group.count; ++i) {
    const float code = round(group.values[i] * inverse);
    xc += group.values[i] * code;
    cc += code * code;
  }
  return {xc, cc};
}

template <class Round>
double squared_error(const Group& group, float scale, const Round& round) {
  const float inverse = 1 / scale;
  double sum = 0;
#pragma omp simd reduction(+ : sum)
  for (std::int64_t i = 0; i < group.count; ++i) {
    const float error = group.values[i] - scale * round(group.values[i] * inverse);
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
template <class Round>
class Search {
 public:
  Search(const Group& group, const Coding& coding, DataType scale_type)
      : group_(group), coding_(coding), scale_type_(scale_type) {}

  /// Rounds the scale as it will be stored, and keeps the grid if it is the best yet: the errors compared are those the
  /// user will see.
  void consider(float scale, int zero) {
    const Grid grid = {
        static_cast<float>(stored_scale(static_cast<double>(scale) * group_.unit, scale_type_) / group_.unit), zero};
    const double error = squared_error(group_, grid.scale, Round(coding_, zero));
    if (error < error_) {
      error_ = error;
      best_ = grid;
    }
  }

  /// Of the scales around `span`, which just holds every value, the one with the largest gain.
  void shrink(float span, int zero) {
    if (!(span > 0)) return;
    constexpr int kFirst = 17;  // times 1/16: a little room above ...
    constexpr int kLast = 6;    // ... and far below, for groups with outliers
    float best = span;
    float gain = -1;
    for (int step = kFirst; step >= kLast; --step) {
      const float scale = span * static_cast<float>(step) / 16;
      const Fit candidate = fit(group_, scale, Round(coding_, zero));
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
  /// Refits the scale to the codes and the codes to the scale.
  void refine(float scale, int zero) {
    constexpr int kRounds = 3;
    for (int round = 0; round < kRounds; ++round) {
      const float fitted = fit(group_, scale, Round(coding_, zero)).scale();
      if (!(fitted > 0)) return;
      scale = fitted;
      consider(scale, zero);
    }
    constexpr float kStep = 1.0f / 192;  // to the neighbours among scales of 8 bits
    consider(scale * (1 - kStep), zero);
    consider(scale * (1 + kStep), zero);
  }

  const Group& group_;
  const Coding& coding_;
  DataType scale_type_;
  Grid best_;
  double error_ = std::numeric_limits<double>::infinity();
};

// One group, all of whose numbers are finite.
Grid choose_integers(const Group& group, const Coding& coding, const QuantizeOptions& options) {
  Search<ToInteger> search(group, coding, options.scale_type);
  const int middle = coding.middle();
  const int max_code = coding.codes() - 1;
  const auto largest = static_cast<float>(middle - 1);
  // Rounding by the largest value: to -7...7 (-127...127), or to the range that holds all values and zero.
  const float range = (group.highest - group.lowest) / static_cast<float>(max_code);
  const int zero = std::clamp(static_cast<int>(std::lround(-group.lowest / range)), 0, max_code);
  coding.has_zero_points ? search.consider(range, zero) : search.consider(1 / largest, middle);
  if (!options.search) return search.best();

  const auto shrink = [&](int at) {
    search.shrink(std::max(at < max_code ? group.highest / static_cast<float>(max_code - at) : 0.0f,
                           at > 0 ? -group.lowest / static_cast<float>(at) : 0.0f),
                  at);
  };
  // The other common choices, so that the result is never worse than theirs; powers of two make constant groups exact.
  for (const int symmetric : {middle, middle - 1}) {
    for (const float half : {0.0f, 0.5f, 1.0f}) search.consider(1 / (largest + half), symmetric);
    shrink(symmetric);
  }
  if (coding.has_zero_points) {
    search.consider(1 / static_cast<float>(middle), group.lowest < 0 ? (group.highest > 0 ? middle : max_code) : 0);
    for (int near = std::max(0, zero - 2); near <= std::min(max_code, zero + 2); ++near) {
      if (near != middle - 1 && near != middle) shrink(near);
    }
  }
  return search.best();
}

// What the largest value of a group becomes: no more than e4m3's, so that the scales of weights of usual size are
// normal numbers of fp16, whatever the range of the type.
float reach(const Coding& coding) { return std::min(coding.largest(), 448.0f); }

Grid choose_floating(const Group& group, const Coding& coding, const QuantizeOptions& options) {
  Search<ToFloating> search(group, coding, options.scale_type);
  const float largest = reach(coding);
  search.consider(1 / largest, 0);
  if (!options.search) return search.best();
  search.consider(std::ldexp(1.0f, -std::ilogb(largest)), 0);  // constant groups
  search.shrink(1 / largest, 0);
  return search.best();
}

Grid choose_grid(const Group& group, const Coding& coding, const QuantizeOptions& options) {
  return coding.is_integer() ? choose_integers(group, coding, options) : choose_floating(group, coding, options);
}

// What the codes of a group stand for, less the zero, in place of its values.
void round_group(const Coding& coding, const Grid& grid, std::int64_t count, float* values) {
  const auto round_all = [&](const auto& round) {
    const float inverse = 1 / grid.scale;
    for (std::int64_t i = 0; i < count; ++i) values[i] = round(values[i] * inverse);
  };
  coding.is_integer() ? round_all(ToInteger(coding, grid.zero)) : round_all(ToFloating(coding, 0));
}

// The code of exactly this value.
int floating_code(const Coding& coding, float value) {
  for (int u = 0; u < coding.codes() / 2; ++u) {
    if (coding.value(u) == std::abs(value)) return value < 0 ? u + coding.codes() / 2 : u;
  }
  return 0;
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
        limit_(options.scale_type == DataType::kF16
                   ? 65280.0f * (coding_.is_integer() ? static_cast<float>(coding_.middle() - 1) : reach(coding_))
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

    // Of a group of zeros: every code the zero point.
    Grid grid{1, coding_.is_integer() ? coding_.middle() : 0};
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

    const bool mirrored = coding_.is_integer() && !coding_.has_zero_points && grid.zero != coding_.middle();
    const std::int64_t at = group_index * tensor_.n + n;
    from_float(options_.scale_type, tensor_.scales.data(), at, static_cast<float>(mirrored ? -scale : scale));
    if (coding_.has_zero_points) {
      tensor_.zero_points[static_cast<std::size_t>(at)] = static_cast<std::uint8_t>(grid.zero);
    }
    std::uint8_t* bytes = tensor_.qweight.data() + n * row_bytes_;
    round_group(coding_, grid, count, scratch);
    for (std::int64_t i = 0; i < count; ++i) {
      const int code = static_cast<int>(scratch[i]);
      const int u = !coding_.is_integer() ? floating_code(coding_, scratch[i])
                    : mirrored            ? coding_.middle() - code
                                          : code + grid.zero;
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
  weight.tensor_scale = tensor_scale;
  weight.g_idx = g_idx.empty() ? nullptr : g_idx.data();
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
