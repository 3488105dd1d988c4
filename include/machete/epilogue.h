#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "machete/status.h"

namespace machete {

/// What a row of sums goes through before it is stored. The first six act on each element:
///   relu       max(x, 0)
///   silu       x / (1 + exp(-x))
///   gelu       x / 2 (1 + erf(x / sqrt 2))
///   gelu_tanh  x / 2 (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))), the approximation that GPT-2 made usual
/// and swiglu makes one column of two: silu(gate) up, of a weight [gate; up] that was packed with swiglu set.
enum class Activation : std::uint8_t { kNone = 0, kRelu = 1, kSilu = 2, kGelu = 3, kGeluTanh = 4, kSwiglu = 5 };

/// What happens between the product and D, in this order, in fp32, with one rounding at the store:
///
///   x = A · Wᵀ  * token_scale[m]  * channel_scale[n]  + bias[n]
///   D = (activation(x)  + residual[m, n])  * (1 / output_scale)
///
/// A step that is not asked for is left out; what the others read is in Arguments.
struct Epilogue {
  bool token_scale = false;    // fp32, one a token: that of quantised activations
  bool channel_scale = false;  // fp32, one an output feature
  bool bias = false;
  Activation activation = Activation::kNone;
  bool residual = false;
  bool output_scale = false;  // fp32, one number: D's values are its codes times that; of outputs of e4m3

  bool plain() const {
    return !token_scale && !channel_scale && !bias && activation == Activation::kNone && !residual && !output_scale;
  }
};

/// "none", or the steps in order: "token_scale+channel_scale+bias+silu+residual+output_scale".
std::string name_of(const Epilogue& epilogue);

/// The inverse, steps in any order, with + or commas between them; the error lists what exists.
Result<Epilogue> parse_epilogue(std::string_view text);

}  // namespace machete
