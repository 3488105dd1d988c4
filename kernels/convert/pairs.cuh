#pragma once

/// Two numbers of 16 bits in a register, the low half first.

#include <cutlass/bfloat16.h>
#include <cutlass/half.h>

#include <cstdint>
#include <type_traits>

namespace machete::convert {

template <class Element>
inline constexpr bool kIsBf16 = std::is_same_v<Element, cutlass::bfloat16_t>;

template <class Element>
__device__ std::uint32_t subtract(std::uint32_t a, std::uint32_t b) {
  std::uint32_t result;
  if constexpr (kIsBf16<Element>) {
    asm("sub.rn.bf16x2 %0, %1, %2;" : "=r"(result) : "r"(a), "r"(b));
  } else {
    asm("sub.rn.f16x2 %0, %1, %2;" : "=r"(result) : "r"(a), "r"(b));
  }
  return result;
}

template <class Element>
__device__ std::uint32_t add(std::uint32_t a, std::uint32_t b) {
  std::uint32_t result;
  if constexpr (kIsBf16<Element>) {
    asm("add.rn.bf16x2 %0, %1, %2;" : "=r"(result) : "r"(a), "r"(b));
  } else {
    asm("add.rn.f16x2 %0, %1, %2;" : "=r"(result) : "r"(a), "r"(b));
  }
  return result;
}

template <class Element>
__device__ std::uint32_t multiply(std::uint32_t a, std::uint32_t b) {
  std::uint32_t result;
  if constexpr (kIsBf16<Element>) {
    asm("mul.rn.bf16x2 %0, %1, %2;" : "=r"(result) : "r"(a), "r"(b));
  } else {
    asm("mul.rn.f16x2 %0, %1, %2;" : "=r"(result) : "r"(a), "r"(b));
  }
  return result;
}

/// a * b + c, rounded once.
template <class Element>
__device__ std::uint32_t multiply_add(std::uint32_t a, std::uint32_t b, std::uint32_t c) {
  std::uint32_t result;
  if constexpr (kIsBf16<Element>) {
    asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(result) : "r"(a), "r"(b), "r"(c));
  } else {
    asm("fma.rn.f16x2 %0, %1, %2, %3;" : "=r"(result) : "r"(a), "r"(b), "r"(c));
  }
  return result;
}

/// The low half twice, the high half twice.
__device__ inline std::uint32_t twice_low(std::uint32_t pair) { return __byte_perm(pair, pair, 0x1010); }
__device__ inline std::uint32_t twice_high(std::uint32_t pair) { return __byte_perm(pair, pair, 0x3232); }

template <class Element>
__device__ float low_float(std::uint32_t pair) {
  return static_cast<float>(Element::bitcast(static_cast<std::uint16_t>(pair & 0xffffu)));
}
template <class Element>
__device__ float high_float(std::uint32_t pair) {
  return static_cast<float>(Element::bitcast(static_cast<std::uint16_t>(pair >> 16)));
}

template <class Element>
__device__ std::uint32_t pack(float low, float high) {
  std::uint32_t result;
  if constexpr (kIsBf16<Element>) {
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(result) : "f"(high), "f"(low));
  } else {
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(result) : "f"(high), "f"(low));
  }
  return result;
}

/// (v & mask) ^ flip, (v & mask) | set.
template <std::uint32_t kMask, std::uint32_t kFlip>
__device__ std::uint32_t mask_xor(std::uint32_t v) {
  std::uint32_t result;
  asm("lop3.b32 %0, %1, %2, %3, 0x6A;" : "=r"(result) : "r"(v), "n"(kMask), "n"(kFlip));
  return result;
}
template <std::uint32_t kMask>
__device__ std::uint32_t mask_or(std::uint32_t v, std::uint32_t set) {
  std::uint32_t result;
  asm("lop3.b32 %0, %1, %2, %3, 0xEA;" : "=r"(result) : "r"(v), "n"(kMask), "r"(set));
  return result;
}

}  // namespace machete::convert
