#include "layers.h"

#include <fmt/format.h>
#include <fnmatch.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <cmath>
#include <string_view>

#include "reference/dequantize.h"

namespace machete::tools {
namespace {

constexpr std::string_view kWeightSuffix = ".weight";

/// Two-dimensional weights that are looked up, or so small or sensitive that nobody quantises them.
constexpr std::array<std::string_view, 10> kNotLinear = {"embed", "token_embd", "wte",     "wpe",    "position",
                                                         "norm",  "rotary",     "lm_head", "router", ".gate.weight"};

bool ends_with(std::string_view text, std::string_view suffix) {
  return text.size() >= suffix.size() && text.substr(text.size() - suffix.size()) == suffix;
}

bool is_matrix(const formats::Tensor& tensor) {
  return tensor.shape.size() == 2 && tensor.bytes != 0 && formats::is_floating(tensor.dtype);
}

bool is_linear(const formats::Tensor& tensor) {
  std::string name = tensor.name;
  for (char& c : name) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return ends_with(name, kWeightSuffix) && std::none_of(kNotLinear.begin(), kNotLinear.end(), [&](auto part) {
           return name.find(part) != std::string::npos;
         });
}

bool matches(const std::string& glob, const formats::Tensor& tensor) {
  return ::fnmatch(glob.c_str(), tensor.name.c_str(), 0) == 0 ||
         ::fnmatch(glob.c_str(), layer_name(tensor.name).c_str(), 0) == 0;
}

bool any_matches(const std::vector<std::string>& globs, const formats::Tensor& tensor) {
  return std::any_of(globs.begin(), globs.end(), [&](const auto& glob) { return matches(glob, tensor); });
}

/// A glob without effect is a slip of the pen.
Status check_globs(const char* option, const std::vector<std::string>& globs,
                   const std::vector<formats::Tensor>& tensors) {
  for (const std::string& glob : globs) {
    if (std::none_of(tensors.begin(), tensors.end(), [&](const auto& tensor) { return matches(glob, tensor); })) {
      return {StatusCode::kInvalidArgument,
              fmt::format("{} '{}' matches no two-dimensional floating-point tensor; see the names with 'machete "
                          "quantize INPUT --only \"*\" --dry-run'",
                          option, glob)};
    }
  }
  return {};
}

}  // namespace

const char* const kLayerRule =
    R"(Quantised are the weights of linear layers: two-dimensional floating-point tensors named *.weight whose name holds none
of embed, token_embd, wte, wpe, position, norm, rotary, lm_head, router, .gate.weight. --only replaces the rule about names, --skip
takes layers out; both take globs of tensor or layer names.)";

std::string layer_name(const std::string& tensor) {
  return ends_with(tensor, kWeightSuffix) ? tensor.substr(0, tensor.size() - kWeightSuffix.size()) : tensor;
}

Result<std::vector<formats::Tensor>> find_layers(const formats::Checkpoint& checkpoint, const LayerFilter& filter) {
  std::vector<formats::Tensor> matrices;
  for (formats::Tensor& tensor : checkpoint.tensors()) {
    if (is_matrix(tensor)) matrices.push_back(std::move(tensor));
  }
  if (Status status = check_globs("--only", filter.only, matrices); !status.ok()) return status;
  if (Status status = check_globs("--skip", filter.skip, matrices); !status.ok()) return status;
  std::vector<formats::Tensor> layers;
  for (formats::Tensor& tensor : matrices) {
    const bool chosen = filter.only.empty() ? is_linear(tensor) : any_matches(filter.only, tensor);
    if (chosen && !any_matches(filter.skip, tensor)) layers.push_back(std::move(tensor));
  }
  return layers;
}

double QuantizationError::relative() const { return weight > 0 ? std::sqrt(error / weight) : 0; }

QuantizationError& QuantizationError::operator+=(const QuantizationError& other) {
  error += other.error;
  weight += other.weight;
  return *this;
}

QuantizationError quantization_error(const float* weight, const QuantizedWeight& quantized) {
  const std::int64_t n = quantized.n, k = quantized.k;
  std::vector<QuantizationError> rows(static_cast<std::size_t>(n));
#pragma omp parallel
  {
    std::vector<float> row(static_cast<std::size_t>(k));
#pragma omp for
    for (std::int64_t i = 0; i < n; ++i) {
      reference::dequantize_row(quantized, i, row.data());
      QuantizationError sum;
      for (std::int64_t j = 0; j < k; ++j) {
        const double w = weight[i * k + j];
        const double difference = w - static_cast<double>(row[static_cast<std::size_t>(j)]);
        sum += {difference * difference, w * w};
      }
      rows[static_cast<std::size_t>(i)] = sum;
    }
  }
  QuantizationError total;
  for (const QuantizationError& row : rows) total += row;
  return total;
}

}  // namespace machete::tools
