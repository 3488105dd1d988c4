#include "api/validate.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <initializer_list>
#include <string>
#include <string_view>
#include <vector>

#include "api/memory.h"
#include "kernels/convert/coding.h"
#include "kernels/prepack/shape.h"

namespace machete::validate {
namespace {

Status invalid(std::string message) { return {StatusCode::kInvalidArgument, std::move(message)}; }
Status incompatible(std::string message) { return {StatusCode::kIncompatible, std::move(message)}; }

bool is_floating(DataType type) { return type == DataType::kF16 || type == DataType::kBf16 || type == DataType::kF32; }

// The 8-bit activations that weights can meet are those whose MMA holds the weights exactly.
bool meets(DataType a_type, WeightType w_type) {
  const convert::Type* type = convert::find(w_type);
  return type != nullptr && type->meets(a_type);
}

// "u4b8, s4 and e4m3": the weights that meet activations of one of the types.
std::string weights_meeting(std::initializer_list<DataType> a_types, const char* last) {
  std::vector<std::string_view> names;
  for (const WeightType w_type : weight_types()) {
    const auto met = [&](DataType a_type) { return meets(a_type, w_type); };
    if (std::any_of(a_types.begin(), a_types.end(), met)) names.push_back(name_of(w_type));
  }
  return fmt::format("{} {} {}", fmt::join(names.begin(), names.end() - 1, ", "), last, names.back());
}

}  // namespace

Status size(const char* name, std::int64_t value, std::int64_t least) {
  if (value >= least && value <= kMaxSize) return {};
  return invalid(fmt::format("{}={} must be at least {} and at most 2^30", name, value, least));
}

Status group_size(std::int64_t value) {
  if (value == -1 || (value > 0 && value % 16 == 0 && value <= kMaxSize)) return {};
  return invalid(
      fmt::format("group_size={} must be -1 (one scale per output feature) or a positive multiple of 16; requantise "
                  "with such a size",
                  value));
}

Status weight_type(WeightType type) {
  if (convert::coding_of(type).bits != 0) return {};
  return invalid(fmt::format("weight type {} is not known; use one of WeightType's", static_cast<int>(type)));
}

Status scale_type(DataType type) {
  if (is_floating(type) || type == DataType::kE4m3 || type == DataType::kE8m0) return {};
  return invalid(
      fmt::format("scales of type {} are not known; use DataType::kBf16, kF16 or kF32", static_cast<int>(type)));
}

Status zero_point_type(DataType type) {
  if (type == DataType::kU8 || is_floating(type)) return {};
  return invalid(
      fmt::format("zero_point_type {} is not known; use DataType::kU8, kBf16, kF16 or kF32", static_cast<int>(type)));
}

Status compute_type(const char* name, DataType type) {
  if (type == DataType::kF16 || type == DataType::kBf16) return {};
  if (static_cast<int>(type) <= static_cast<int>(DataType::kS8))
    return {StatusCode::kUnsupported, fmt::format("{}={} is not served; use bf16 or f16", name, name_of(type))};
  return invalid(fmt::format("{} {} is not known; use DataType::kBf16 or kF16", name, static_cast<int>(type)));
}

Status activation_bits(int bits, WeightType type) {
  if (bits == 16) return {};
  if (bits != 8) return invalid(fmt::format("activation_bits={} must be 16 or 8", bits));
  if (meets(DataType::kS8, type) || meets(DataType::kE4m3, type)) return {};
  return {StatusCode::kUnsupported,
          fmt::format("{} weights meet no 8-bit activations; prepack for 16-bit ones, or quantise to {}", name_of(type),
                      weights_meeting({DataType::kS8, DataType::kE4m3}, "or"))};
}

Status activation_type(DataType type, WeightType w_type) {
  if (type == DataType::kF16 || type == DataType::kBf16) return {};
  if (type != DataType::kS8 && type != DataType::kE4m3) {
    if (static_cast<int>(type) > static_cast<int>(DataType::kS8)) {
      return invalid(fmt::format("a_type {} is not known; use bf16, f16, s8 or e4m3", static_cast<int>(type)));
    }
    return {StatusCode::kUnsupported, fmt::format("a_type={} is not served; use bf16, f16, s8 or e4m3", name_of(type))};
  }
  if (meets(type, w_type)) return {};
  return {StatusCode::kUnsupported,
          fmt::format("a_type={} with w_type={} is not served; s8 meets {}, e4m3 meets {}, bf16 and f16 meet all",
                      name_of(type), name_of(w_type), weights_meeting({DataType::kS8}, "and"),
                      weights_meeting({DataType::kE4m3}, "and"))};
}

Status pointer(const char* name, const void* value, std::size_t alignment) {
  if (value == nullptr) return invalid(fmt::format("{} is null; pass the address of the tensor", name));
  if (reinterpret_cast<std::uintptr_t>(value) % alignment != 0) {
    return invalid(
        fmt::format("{}={} must be a multiple of {} bytes; copy the tensor to aligned memory", name, value, alignment));
  }
  return {};
}

std::int64_t span(std::int64_t rows, std::int64_t columns, std::int64_t stride, std::size_t element) {
  return ((rows - 1) * stride + columns) * static_cast<std::int64_t>(element);
}

Status apart(const Extent& other, const Extent& written) {
  const auto x = reinterpret_cast<std::uintptr_t>(other.begin);
  const auto y = reinterpret_cast<std::uintptr_t>(written.begin);
  if (x >= y + static_cast<std::uintptr_t>(written.bytes) || y >= x + static_cast<std::uintptr_t>(other.bytes)) {
    return {};
  }
  return invalid(fmt::format("{}={} and {}={} overlap; give the output memory of its own", other.name, other.begin,
                             written.name, written.begin));
}

Result<Problem> problem(const Problem& given) {
  Problem p = given;
  if (p.lda == 0) p.lda = p.k;
  if (p.ldd == 0) p.ldd = p.d_columns();
  if (p.ldc == 0) p.ldc = p.d_columns();
  for (const Status& status : {size("M", p.m, 0), size("N", p.n, 1), size("K", p.k, 1), weight_type(p.w_type),
                               activation_type(p.a_type, p.w_type), group_size(p.group_size)}) {
    if (!status.ok()) return status;
  }
  if (!is_floating(p.d_type) && p.d_type != DataType::kE4m3) {
    return invalid(fmt::format("d_type {} is not known; use bf16, f16, f32 or e4m3", static_cast<int>(p.d_type)));
  }
  if (p.epilogue.output_scale && p.d_type != DataType::kE4m3) {
    return invalid(
        fmt::format("output_scale with d_type={}: only outputs of e4m3 have one; take that d_type, or plan "
                    "without the step",
                    name_of(p.d_type)));
  }
  if (static_cast<int>(p.epilogue.activation) > static_cast<int>(Activation::kSwiglu)) {
    return invalid(
        fmt::format("activation {} is not known; use one of Activation's", static_cast<int>(p.epilogue.activation)));
  }
  if (p.epilogue.activation == Activation::kSwiglu && p.n % 2 != 0) {
    return invalid(fmt::format("N={} must be even for swiglu: as many rows of gate as of up", p.n));
  }
  if (p.lda < p.k || p.lda > kMaxSize) {
    return invalid(fmt::format("lda={} must be at least K={} and at most 2^30; rows of A may not overlap", p.lda, p.k));
  }
  if (p.ldd < p.d_columns() || p.ldd > kMaxSize) {
    return invalid(fmt::format("ldd={} must be at least D's columns, {}, and at most 2^30; rows of D may not overlap",
                               p.ldd, p.d_columns()));
  }
  if (p.epilogue.residual && (p.ldc < p.d_columns() || p.ldc > kMaxSize)) {
    return invalid(fmt::format("ldc={} must be at least D's columns, {}, and at most 2^30", p.ldc, p.d_columns()));
  }
  return p;
}

Status header(const PackedHeader& h) {
  if (std::memcmp(h.magic, PackedHeader::kMagic, sizeof(h.magic)) != 0) {
    return incompatible("the weight is not a PackedWeight; make one with prepack() or load()");
  }
  if (h.version != PackedHeader::kVersion) {
    return incompatible(
        fmt::format("the weight was prepacked by layout version {}, this build reads version {}; prepack it again",
                    h.version, PackedHeader::kVersion));
  }
  if (!std::isfinite(h.tensor_scale)) {
    return incompatible(fmt::format("the weight's header is damaged: tensor_scale={}", h.tensor_scale));
  }
  for (const Status& status : {size("N", h.n, 1), size("K", h.k, 1), group_size(h.group_size), weight_type(h.type),
                               compute_type("scale_type", h.scale_type), activation_bits(h.activation_bits, h.type)}) {
    if (!status.ok()) return incompatible("the weight's header is damaged: " + status.message());
  }
  if (h.swiglu > 1 || (h.swiglu == 1 && h.n % 2 != 0)) {
    return incompatible(fmt::format("the weight's header is damaged: swiglu={} with N={}", h.swiglu, h.n));
  }
  const packing::Shape shape =
      packing::shape_of(h.n, h.k, h.group_size, bits_of(h.type), h.swiglu == 1, h.activation_bits);
  const std::uint64_t scale_bytes = static_cast<std::uint64_t>(shape.scale_count()) * 2;
  const bool zeros = has_zero_points(h.type);
  if (h.permutation_bytes != 0 && h.permutation_bytes != memory::padded(static_cast<std::uint64_t>(h.k) * 4)) {
    return incompatible(
        fmt::format("the weight's header is damaged: {} bytes do not hold an order of K={}; prepack it "
                    "again",
                    h.permutation_bytes, h.k));
  }
  if (h.weight_bytes != static_cast<std::uint64_t>(shape.weight_bytes()) || h.scale_bytes != scale_bytes ||
      h.zero_bytes != (zeros ? scale_bytes : 0)) {
    return incompatible(
        fmt::format("the weight's header is damaged: {} + {} + {} bytes do not hold {} of N={}, K={}; prepack it again",
                    h.weight_bytes, h.scale_bytes, h.zero_bytes, name_of(h.type), h.n, h.k));
  }
  if (zeros && h.zero_point_type != DataType::kU8 && h.zero_point_type != h.scale_type) {
    return incompatible(
        fmt::format("the weight's header is damaged: zero points of type {} are packed as {} or u8; "
                    "prepack it again",
                    static_cast<int>(h.zero_point_type), name_of(h.scale_type)));
  }
  return {};
}

Status permutation(const std::int32_t* order, std::int64_t k) {
  if (order == nullptr) return {};
  std::vector<bool> seen(static_cast<std::size_t>(k));
  for (std::int64_t i = 0; i < k; ++i) {
    const std::int32_t at = order[i];
    const bool inside = at >= 0 && at < k;
    if (inside && !seen[static_cast<std::size_t>(at)]) {
      seen[static_cast<std::size_t>(at)] = true;
      continue;
    }
    return {StatusCode::kCorrupt,
            fmt::format("the weight's order of K is damaged: entry {} is {}{}, and each of 0 to {} must come once; "
                        "prepack it again",
                        i, at, inside ? " again" : "", k - 1)};
  }
  return {};
}

Status matches(const PackedHeader& h, const Problem& p) {
  const Status status = header(h);
  if (!status.ok()) return status;
  if (h.n != p.n || h.k != p.k || h.group_size != p.group_size || h.type != p.w_type) {
    return incompatible(
        fmt::format("the weight is {} [{}, {}] with group_size {}, the plan is for {} [{}, {}] with group_size {}; "
                    "plan for the weight at hand",
                    name_of(h.type), h.n, h.k, h.group_size, name_of(p.w_type), p.n, p.k, p.group_size));
  }
  if ((h.swiglu != 0) != (p.epilogue.activation == Activation::kSwiglu)) {
    return incompatible(h.swiglu != 0 ? "the weight is packed for the epilogue swiglu, which the plan has not"
                                      : "the plan's epilogue is swiglu; prepack the weight with swiglu=true");
  }
  if (h.activation_bits != bits_of(p.a_type)) {
    return incompatible(
        fmt::format("the weight is packed for {}-bit activations, the plan's are {}; prepack with activation_bits={}",
                    h.activation_bits, name_of(p.a_type), bits_of(p.a_type)));
  }
  if (h.scale_type != p.scale_type()) {
    return incompatible(fmt::format("the weight's scales are {}, the plan's {}{}; prepack with scale_type={}",
                                    name_of(h.scale_type), bits_of(p.a_type) == 16 ? "activations " : "",
                                    name_of(p.scale_type()), name_of(p.scale_type())));
  }
  return {};
}

}  // namespace machete::validate
