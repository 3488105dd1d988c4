#pragma once

/// Two numbers of 16 bits in a register, the low half first. The host does what the device does, number by number: what
/// converters make of every code is tested without a GPU.

#include <cutlass/bfloat16.h>
#include <cutlass/float8.h>
#include <cutlass/half.h>

#include <cmath>
#include <cstdint>
#include <cute/config.hpp>
#include <type_traits>

#include "machete/types.h"

namespace machete::convert {

template <class Element>
inline constexpr bool kIsBf16 = std::is_same_v<Element, cutlass::bfloat16_t>;
template <class T>
inline constexpr DataType kDataType = std::is_same_v<T, std::int8_t>             ? DataType::kS8
                                      : std::is_same_v<T, cutlass::float_e4m3_t> ? DataType::kE4m3
                                      : kIsBf16<T>                               ? DataType::kBf16
                                                                                 : DataType::kF16;

template <class Element>
CUTE_HOST_DEVICE float low_float(std::uint32_t pair) {
  return static_cast<float>(Element::bitcast(static_cast<std::uint16_t>(pair & 0xffffu)));
}
template <class Element>
CUTE_HOST_DEVICE float high_float(std::uint32_t pair) {
  return static_cast<float>(Element::bitcast(static_cast<std::uint16_t>(pair >> 16)));
}

/// Rounded to nearest.
template <class Element>
CUTE_HOST_DEVICE std::uint32_t pack(float low, float high) {
#if defined(__CUDA_ARCH__)
  std::uint32_t result;
  if constexpr (kIsBf16<Element>) {
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(result) : "f"(high), "f"(low));
  } else {
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(result) : "f"(high), "f"(low));
  }
  return result;
#else
  return Element(low).raw() | static_cast<std::uint32_t>(Element(high).raw()) << 16;
#endif
}

/// a * b + c, rounded once.
template <class Element>
CUTE_HOST_DEVICE std::uint32_t multiply_add(std::uint32_t a, std::uint32_t b, std::uint32_t c) {
#if defined(__CUDA_ARCH__)
  std::uint32_t result;
  if constexpr (kIsBf16<Element>) {
    asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(result) : "r"(a), "r"(b), "r"(c));
  } else {
    asm("fma.rn.f16x2 %0, %1, %2, %3;" : "=r"(result) : "r"(a), "r"(b), "r"(c));
  }
  return result;
#else
  // Products of 11 bits are exact in fp32.
  return pack<Element>(low_float<Element>(a) * low_float<Element>(b) + low_float<Element>(c),
                       high_float<Element>(a) * high_float<Element>(b) + high_float<Element>(c));
#endif
}

template <class Element>
CUTE_HOST_DEVICE std::uint32_t multiply(std::uint32_t a, std::uint32_t b) {
#if defined(__CUDA_ARCH__)
  std::uint32_t result;
  if constexpr (kIsBf16<Element>) {
    asm("mul.rn.bf16x2 %0, %1, %2;" : "=r"(result) : "r"(a), "r"(b));
  } else {
    asm("mul.rn.f16x2 %0, %1, %2;" : "=r"(result) : "r"(a), "r"(b));
  }
  return result;
#else
  return pack<Element>(low_float<Element>(a) * low_float<Element>(b), high_float<Element>(a) * high_float<Element>(b));
#endif
}

template <class Element>
CUTE_HOST_DEVICE std::uint32_t add(std::uint32_t a, std::uint32_t b) {
#if defined(__CUDA_ARCH__)
  std::uint32_t result;
  if constexpr (kIsBf16<Element>) {
    asm("add.rn.bf16x2 %0, %1, %2;" : "=r"(result) : "r"(a), "r"(b));
  } else {
    asm("add.rn.f16x2 %0, %1, %2;" : "=r"(result) : "r"(a), "r"(b));
  }
  return result;
#else
  return pack<Element>(low_float<Element>(a) + low_float<Element>(b), high_float<Element>(a) + high_float<Element>(b));
#endif
}

template <class Element>
CUTE_HOST_DEVICE std::uint32_t subtract(std::uint32_t a, std::uint32_t b) {
#if defined(__CUDA_ARCH__)
  std::uint32_t result;
  if constexpr (kIsBf16<Element>) {
    asm("sub.rn.bf16x2 %0, %1, %2;" : "=r"(result) : "r"(a), "r"(b));
  } else {
    asm("sub.rn.f16x2 %0, %1, %2;" : "=r"(result) : "r"(a), "r"(b));
  }
  return result;
#else
  return add<Element>(a, b ^ 0x80008000u);
#endif
}

/// Four of the eight bytes of b:a, by the nibbles of the selector.
template <std::uint32_t kSelector>
CUTE_HOST_DEVICE std::uint32_t permute_bytes(std::uint32_t a, std::uint32_t b) {
#if defined(__CUDA_ARCH__)
  return __byte_perm(a, b, kSelector);
#else
  const std::uint64_t both = std::uint64_t{b} << 32 | a;
  std::uint32_t result = 0;
  for (unsigned i = 0; i < 4; ++i) {
    result |= static_cast<std::uint32_t>(both >> (kSelector >> (4 * i) & 7u) * 8 & 0xffu) << (8 * i);
  }
  return result;
#endif
}

/// Bytes of the table b:a by the low four nibbles of the selector; 0 where a nibble is above 7. No byte of the table
/// may be above 127.
CUTE_HOST_DEVICE std::uint32_t look_up(std::uint32_t a, std::uint32_t b, std::uint32_t selector) {
#if defined(__CUDA_ARCH__)
  // PRMT spreads the chosen byte's sign where the nibble's highest bit is set; __byte_perm would clear that bit.
  std::uint32_t result;
  asm("prmt.b32 %0, %1, %2, %3;" : "=r"(result) : "r"(a), "r"(b), "r"(selector));
  return result;
#else
  const std::uint64_t table = std::uint64_t{b} << 32 | a;
  std::uint32_t result = 0;
  for (unsigned i = 0; i < 4; ++i) {
    const std::uint32_t nibble = selector >> (4 * i) & 15u;
    if (nibble < 8) result |= static_cast<std::uint32_t>(table >> (nibble * 8) & 0xffu) << (8 * i);
  }
  return result;
#endif
}

/// A half of a pair twice, 0 the low one; said so that arithmetic on pairs takes it for a modifier of its operand.
CUTE_HOST_DEVICE std::uint32_t twice(std::uint32_t pair, int half) {
#if defined(__CUDA_ARCH__)
  std::uint16_t halves[2];
  asm("mov.b32 {%0, %1}, %2;" : "=h"(halves[0]), "=h"(halves[1]) : "r"(pair));
  std::uint32_t result;
  asm("mov.b32 %0, {%1, %1};" : "=r"(result) : "h"(halves[half]));
  return result;
#else
  return half == 0 ? permute_bytes<0x1010>(pair, pair) : permute_bytes<0x3232>(pair, pair);
#endif
}

/// (v & mask) ^ flip and (v & mask) | set, in one instruction.
template <std::uint32_t kMask, std::uint32_t kFlip>
CUTE_HOST_DEVICE std::uint32_t mask_xor(std::uint32_t v) {
#if defined(__CUDA_ARCH__)
  std::uint32_t result;
  asm("lop3.b32 %0, %1, %2, %3, 0x6A;" : "=r"(result) : "r"(v), "n"(kMask), "n"(kFlip));
  return result;
#else
  return (v & kMask) ^ kFlip;
#endif
}
template <std::uint32_t kMask>
CUTE_HOST_DEVICE std::uint32_t mask_or(std::uint32_t v, std::uint32_t set) {
#if defined(__CUDA_ARCH__)
  std::uint32_t result;
  asm("lop3.b32 %0, %1, %2, %3, 0xEA;" : "=r"(result) : "r"(v), "n"(kMask), "r"(set));
  return result;
#else
  return (v & kMask) | set;
#endif
}

}  // namespace machete::convert
