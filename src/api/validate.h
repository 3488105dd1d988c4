#pragma once

#include <cstdint>

#include "machete/problem.h"
#include "machete/weight.h"

/// The rules of the public API, each in one place, each with its message of value, rule and remedy.
namespace machete::validate {

inline constexpr std::int64_t kMaxSize = std::int64_t{1} << 30;  // of M, N and K

Status size(const char* name, std::int64_t value, std::int64_t least);
Status group_size(std::int64_t value);
Status weight_type(WeightType type);
Status scale_type(DataType type);  // of a weight in canonical form
Status zero_point_type(DataType type);
Status compute_type(const char* name, DataType type);
Status activation_bits(int bits, WeightType type);         // of a weight's order
Status activation_type(DataType type, WeightType w_type);  // of a problem

/// A pointer that must not be null and must be a multiple of `alignment` bytes.
Status pointer(const char* name, const void* value, std::size_t alignment);

/// The bytes of a matrix from its first element to its last.
std::int64_t span(std::int64_t rows, std::int64_t columns, std::int64_t stride, std::size_t element);

/// Memory that a call reads or writes.
struct Extent {
  const char* name;
  const void* begin;
  std::int64_t bytes;
};

/// That what is written lies apart from something else.
Status apart(const Extent& other, const Extent& written);

/// The problem with its default strides filled in.
Result<Problem> problem(const Problem& problem);

/// That a weight is what a plan's problem needs, and was packed by this version.
Status header(const PackedHeader& header);
Status matches(const PackedHeader& header, const Problem& problem);

/// That an order of K names each k once: it indexes the activations of a run. Null is the order that they have.
Status permutation(const std::int32_t* order /* [K] */, std::int64_t k);

}  // namespace machete::validate
