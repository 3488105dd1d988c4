#include "machete/epilogue.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

namespace machete {
namespace {

constexpr std::pair<std::string_view, bool Epilogue::*> kBefore[] = {
    {"token_scale", &Epilogue::token_scale}, {"channel_scale", &Epilogue::channel_scale}, {"bias", &Epilogue::bias}};
constexpr std::pair<std::string_view, Activation> kActivations[] = {{"relu", Activation::kRelu},
                                                                    {"silu", Activation::kSilu},
                                                                    {"gelu", Activation::kGelu},
                                                                    {"gelu_tanh", Activation::kGeluTanh},
                                                                    {"swiglu", Activation::kSwiglu}};
constexpr std::pair<std::string_view, bool Epilogue::*> kAfter[] = {{"residual", &Epilogue::residual},
                                                                    {"output_scale", &Epilogue::output_scale}};

/// Adds the step to the epilogue; says what is wrong with it, or nothing.
std::string add(std::string_view step, Epilogue& epilogue) {
  const auto twice = [&] { return fmt::format("has '{}' twice; name each step once", step); };
  const auto set = [&](const auto& flags) -> bool Epilogue::* {
    for (const auto& [name, flag] : flags) {
      if (name == step) return flag;
    }
    return nullptr;
  };
  bool Epilogue::*flag = set(kBefore);
  if (flag == nullptr) flag = set(kAfter);
  if (flag != nullptr) {
    if (epilogue.*flag) return twice();
    epilogue.*flag = true;
    return {};
  }
  std::string known;
  for (const auto& [name, activation] : kActivations) {
    known += fmt::format("{}, ", name);
    if (name != step) continue;
    if (epilogue.activation == activation) return twice();
    if (epilogue.activation != Activation::kNone) return "has two activations; choose one";
    epilogue.activation = activation;
    return {};
  }
  return fmt::format(
      "has '{}', which is not known; use none, or some of token_scale, channel_scale, bias, {}residual, "
      "output_scale",
      step, known);
}

}  // namespace

std::string name_of(const Epilogue& epilogue) {
  std::string text;
  const auto append = [&text](std::string_view name) { text += fmt::format("{}{}", text.empty() ? "" : "+", name); };
  for (const auto& [name, flag] : kBefore) {
    if (epilogue.*flag) append(name);
  }
  for (const auto& [name, activation] : kActivations) {
    if (epilogue.activation == activation) append(name);
  }
  for (const auto& [name, flag] : kAfter) {
    if (epilogue.*flag) append(name);
  }
  return text.empty() ? "none" : text;
}

Result<Epilogue> parse_epilogue(std::string_view text) {
  Epilogue epilogue;
  if (text == "none") return epilogue;
  for (std::size_t from = 0; from <= text.size();) {
    const std::size_t to = std::min(text.find_first_of("+,", from), text.size());
    const std::string fault = add(text.substr(from, to - from), epilogue);
    if (!fault.empty()) {
      return Status(StatusCode::kInvalidArgument, fmt::format("epilogue '{}' {}", text, fault));
    }
    from = to + 1;
  }
  return epilogue;
}

}  // namespace machete
