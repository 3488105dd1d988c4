#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <cstdint>
#include <random>
#include <string>
#include <type_traits>
#include <vector>

#include "converters.h"
#include "kernels/convert/scaled.h"
#include "kernels/layout/weight_layout.h"
#include "kernels/prepack/host.h"

// What kernels make of packed weights, on the host: every code of every type, at its place in the MMA's operand.
namespace machete::convert {
namespace {

constexpr int kRows = layout::kStripRows;
constexpr int kDepth = layout::kTileK;

/// A conversion for activations of a type.
template <class Conversion, class Element_>
struct Decoding : Conversion {
  using Element = Element_;
};

/// One tile of weights, packed and decoded.
template <class Decoding>
class Tile {
 public:
  using Converter = typename Decoding::Converter;
  using Element = typename Decoding::Element;
  static constexpr Coding kCoding = coding_of(Decoding::kType);
  using Words = convert::Words<Converter::kBits>;
  static_assert(Converter::kType == find(Decoding::kType)->runs_as && Converter::kBits == kCoding.bits);

  // Canonical codes [16, 64] as the kernels find them.
  static std::vector<std::uint8_t> packed(const std::vector<std::uint8_t>& codes) {
    const auto shape = packing::shape_of(kRows, kDepth, -1, kCoding.bits, false, 8 * sizeof(Element));
    std::vector<std::uint8_t> q(static_cast<std::size_t>(kRows * shape.row_bytes()));
    for (std::size_t i = 0; i < codes.size(); ++i) {
      const std::size_t bit = i * static_cast<std::size_t>(kCoding.bits);
      q[bit / 8] = static_cast<std::uint8_t>(q[bit / 8] | codes[i] << (bit % 8));
    }
    std::vector<std::uint8_t> result(static_cast<std::size_t>(shape.weight_bytes()) + 16);
    // 16-byte loads want their alignment.
    offset_ = (16 - reinterpret_cast<std::uintptr_t>(result.data()) % 16) % 16;
    packing::pack_weights(q.data(), kCoding, shape, nullptr, result.data() + offset_);
    return result;
  }

  // Calls visit(row, k, value) for every element that the lanes decode.
  template <class Visit>
  static void for_each_value(const std::vector<std::uint8_t>& tile, const std::array<float, kRows>& zeros,
                             Visit visit) {
    const auto fragment = layout::warp_fragment();
    for (int lane = 0; lane < 32; ++lane) {
      const Words words = Words::load(tile.data() + offset_, lane);
      typename Converter::template Zeros<Element> lane_zeros;
      std::uint32_t fractions = 0;
      if constexpr (Converter::kZeroPoints) {
        const auto row = static_cast<std::size_t>(lane / 4);
        const std::uint32_t pair = pack<Element>(zeros[row], zeros[row + 8]);
        lane_zeros = Converter::template zeros<Element>(pair);
        fractions = Converter::template fractions<Element>(pair);
      }
      for (int step = 0; step < layout::kSteps; ++step) {
        std::uint32_t a[4];
        Converter::template decode<Element>(words, step, lane_zeros, a);
        for (int i = 0; i < 8; ++i) {
          const int place = fragment(lane, i);
          float value = i % 2 == 0 ? low_float<Element>(a[i / 2]) : high_float<Element>(a[i / 2]);
          value -= place % kRows >= 8 ? high_float<Element>(fractions) : low_float<Element>(fractions);
          visit(place % kRows, step * layout::kStepK + place / kRows, value / Converter::template kCodeUnit<Element>);
        }
      }
    }
  }

  // The same, scaled as the GEMM does, with integer zero points.
  template <class Visit>
  static void for_each_scaled(const std::vector<std::uint8_t>& tile, const std::array<float, kRows>& zeros,
                              const std::array<float, kRows>& scales, Visit visit) {
    using Scaled = convert::Scaled<Converter, Element, false>;
    const auto fragment = layout::warp_fragment();
    for (int lane = 0; lane < 32; ++lane) {
      const Words words = Words::load(tile.data() + offset_, lane);
      const auto row = static_cast<std::size_t>(lane / 4);
      const Scaled scaled(pack<Element>(scales[row], scales[row + 8]), pack<Element>(zeros[row], zeros[row + 8]));
      for (int step = 0; step < layout::kSteps; ++step) {
        std::uint32_t a[4];
        scaled.decode(words, step, a);
        for (int i = 0; i < 8; ++i) {
          const int place = fragment(lane, i);
          const float value = i % 2 == 0 ? low_float<Element>(a[i / 2]) : high_float<Element>(a[i / 2]);
          visit(place % kRows, step * layout::kStepK + place / kRows, value / Scaled::kUnit);
        }
      }
    }
  }

  // The same of 8-bit activations, with the values of their type.
  template <class Visit>
  static void for_each_byte(const std::vector<std::uint8_t>& tile, Visit visit) {
    const auto fragment = layout::warp_fragment<8>();
    for (int lane = 0; lane < 32; ++lane) {
      const Words words = Words::load(tile.data() + offset_, lane);
      for (int step = 0; step < kDepth / 32; ++step) {
        std::uint32_t a[4];
        Converter::template decode_bytes<Element>(words, step, a);
        for (int i = 0; i < 16; ++i) {
          const int place = fragment(lane, i);
          const std::uint32_t byte = a[i / 4] >> (i % 4 * 8) & 0xffu;
          const float value = std::is_same_v<Element, std::int8_t> ? static_cast<float>(static_cast<std::int8_t>(byte))
                                                                   : kE4m3Values[byte];
          visit(place % kRows, step * 32 + place / kRows, value / Converter::template kCodeUnit<Element>);
        }
      }
    }
  }

 private:
  static inline std::size_t offset_ = 0;
};

using Bf16 = cutlass::bfloat16_t;
using F16 = cutlass::half_t;
using S8 = std::int8_t;
using Fp8 = cutlass::float_e4m3_t;

template <class... Lists>
struct Joined;
template <class... A>
struct Joined<List<A...>> {
  using Types = ::testing::Types<A...>;
};
template <class... A, class... B, class... Rest>
struct Joined<List<A...>, List<B...>, Rest...> : Joined<List<A..., B...>, Rest...> {};
template <bool kChosen, class T>
using If = std::conditional_t<kChosen, List<T>, List<>>;

/// The manifest's types with the activations that they meet.
template <class>
struct Enrolled;
template <class... C>
struct Enrolled<List<C...>> {
  using Wide = typename Joined<List<Decoding<C, Bf16>, Decoding<C, F16>>...>::Types;
  using WithZeros = typename Joined<If<C::Converter::kZeroPoints, Decoding<C, Bf16>>...,
                                    If<C::Converter::kZeroPoints, Decoding<C, F16>>...>::Types;
  using Bytes = typename Joined<If<find(C::kType)->meets(DataType::kS8), Decoding<C, S8>>...,
                                If<find(C::kType)->meets(DataType::kE4m3), Decoding<C, Fp8>>...>::Types;
};
using Enrolment = Enrolled<Conversions>;

class Names {
 public:
  template <class T>
  static std::string GetName(int) {
    return std::string(name_of(T::kType)) + "_" + std::string(name_of(kDataType<typename T::Element>));
  }
};

template <class Decoding>
class Convert : public ::testing::Test {};
TYPED_TEST_SUITE(Convert, Enrolment::Wide, Names);

template <class Decoding>
class ConvertZeros : public ::testing::Test {};
TYPED_TEST_SUITE(ConvertZeros, Enrolment::WithZeros, Names);

// Every code, at 16 places and more.
TYPED_TEST(Convert, DecodesEveryCodeExactly) {
  constexpr Coding kCoding = Tile<TypeParam>::kCoding;
  const std::array<float, kRows> zeros = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  for (int round = 0; round < 16; ++round) {
    std::vector<std::uint8_t> codes(kRows * kDepth);
    for (std::size_t i = 0; i < codes.size(); ++i) {
      codes[i] = static_cast<std::uint8_t>((i * 7 + static_cast<std::size_t>(round)) %
                                           static_cast<std::size_t>(kCoding.codes()));
      if (!kCoding.is_finite(kCoding.counted(codes[i]))) codes[i] = 0;  // prepack lets none come here
    }
    int seen = 0;
    Tile<TypeParam>::for_each_value(Tile<TypeParam>::packed(codes), zeros, [&](int row, int k, float value) {
      const auto code = codes[static_cast<std::size_t>(row * kDepth + k)];
      const float zero = kCoding.has_zero_points ? zeros[static_cast<std::size_t>(row)] : kCoding.implied_zero();
      const float expected = kCoding.value(kCoding.counted(code)) - zero;
      ASSERT_EQ(value, expected) << "row " << row << " k " << k;
      ASSERT_EQ(std::signbit(value), std::signbit(expected)) << "row " << row << " k " << k;
      ++seen;
    });
    ASSERT_EQ(seen, kRows * kDepth);
  }
}

// Every code times scales of many exponents and mantissas, up to the largest that prepack lets pass where they are
// folded into the decode: rounded once, to the bit.
TYPED_TEST(Convert, ScalesEveryCodeAndRoundsOnce) {
  using Element = typename Tile<TypeParam>::Element;
  constexpr Coding kCoding = Tile<TypeParam>::kCoding;
  constexpr bool kFolds = convert::kFolds<typename TypeParam::Converter, Element>;
  static_assert(kFolds == kCoding.folds_scales(kDataType<Element>), "prepack checks what kernels do");
  const std::array<float, kRows> zeros = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  std::vector<std::uint8_t> codes(kRows * kDepth);
  for (std::size_t i = 0; i < codes.size(); ++i) {
    codes[i] = static_cast<std::uint8_t>(i * 7 % static_cast<std::size_t>(kCoding.codes()));
    if (!kCoding.is_finite(kCoding.counted(codes[i]))) codes[i] = 0;
  }
  const auto tile = Tile<TypeParam>::packed(codes);
  // Products of fp16 keep their 11 bits, and do not overflow, between these.
  const int least = kIsBf16<Element> ? -80 : kCoding.is_integer() ? -14 : -8;
  const int most = kIsBf16<Element> ? 18 : kCoding.exponent_bits == 5 ? -2 : 6;
  std::mt19937 random(11);
  std::uniform_real_distribution<float> mantissa(1, 1.99f);
  for (int exponent = least; exponent <= most; ++exponent) {
    std::array<float, kRows> scales{};
    for (float& scale : scales) {
      scale = std::ldexp(mantissa(random), exponent) * (random() % 2 == 0 ? 1.0f : -1.0f);
      scale = static_cast<float>(Element(scale));
    }
    scales[3] = std::ldexp(kIsBf16<Element> ? 2 - 0x1p-7f : 1.5f, exponent);
    if (kFolds && exponent == most) {
      ASSERT_EQ(scales[3], kFoldedScales * (1 - 0x1p-8f));  // the largest
    }
    scales[5] = 0;
    Tile<TypeParam>::for_each_scaled(tile, zeros, scales, [&](int row, int k, float value) {
      const auto at = static_cast<std::size_t>(row);
      const float zero = kCoding.has_zero_points ? zeros[at] : kCoding.implied_zero();
      const float number = kCoding.value(kCoding.counted(codes[static_cast<std::size_t>(row * kDepth + k)])) - zero;
      ASSERT_EQ(value, static_cast<float>(Element(number * scales[at]))) << number << " * " << scales[at];
    });
  }
}

template <class Decoding>
class ConvertBytes : public ::testing::Test {};
TYPED_TEST_SUITE(ConvertBytes, Enrolment::Bytes, Names);

// As above, for the MMAs of 8-bit activations.
TYPED_TEST(ConvertBytes, DecodesEveryCodeExactly) {
  constexpr Coding kCoding = Tile<TypeParam>::kCoding;
  for (int round = 0; round < 16; ++round) {
    std::vector<std::uint8_t> codes(kRows * kDepth);
    for (std::size_t i = 0; i < codes.size(); ++i) {
      codes[i] = static_cast<std::uint8_t>((i * 7 + static_cast<std::size_t>(round)) %
                                           static_cast<std::size_t>(kCoding.codes()));
      if (!kCoding.is_finite(kCoding.counted(codes[i]))) codes[i] = 0;
    }
    int seen = 0;
    Tile<TypeParam>::for_each_byte(Tile<TypeParam>::packed(codes), [&](int row, int k, float value) {
      const auto code = codes[static_cast<std::size_t>(row * kDepth + k)];
      ASSERT_EQ(value, kCoding.value(kCoding.counted(code)) - kCoding.implied_zero()) << "row " << row << " k " << k;
      ++seen;
    });
    ASSERT_EQ(seen, kRows * kDepth);
  }
}

// Zero points of the type's numbers: an integer and a fraction of at most one half, together exactly the number.
TYPED_TEST(ConvertZeros, AreSplitExactly) {
  using Converter = typename Tile<TypeParam>::Converter;
  using Element = typename Tile<TypeParam>::Element;
  constexpr Coding kCoding = Tile<TypeParam>::kCoding;
  std::mt19937 random(7);
  std::uniform_real_distribution<float> anywhere(0, static_cast<float>(kCoding.codes() - 1));
  std::vector<std::uint8_t> codes(kRows * kDepth);
  for (auto& code : codes) code = static_cast<std::uint8_t>(random() % static_cast<unsigned>(kCoding.codes()));
  const auto tile = Tile<TypeParam>::packed(codes);
  for (int round = 0; round < 100; ++round) {
    std::array<float, kRows> zeros{};
    for (float& zero : zeros) zero = static_cast<float>(Element(anywhere(random)));
    Tile<TypeParam>::for_each_value(tile, zeros, [&](int row, int k, float value) {
      const auto at = static_cast<std::size_t>(row);
      const float expected = static_cast<float>(codes[at * kDepth + static_cast<std::size_t>(k)]) - zeros[at];
      ASSERT_EQ(value, expected) << "zero point " << zeros[at];
    });
    for (std::size_t row = 0; row < 8; ++row) {
      const auto fractions = Converter::template fractions<Element>(pack<Element>(zeros[row], zeros[row + 8]));
      constexpr float kHalf = 0.5f * Converter::template kCodeUnit<Element>;
      ASSERT_LE(std::abs(low_float<Element>(fractions)), kHalf);
      ASSERT_LE(std::abs(high_float<Element>(fractions)), kHalf);
    }
  }
}

// Integers by their own, shorter way come to the same numbers, and leave nothing.
TYPED_TEST(ConvertZeros, IntegersTakeAShorterWay) {
  using Converter = typename TypeParam::Converter;
  using Element = typename Tile<TypeParam>::Element;
  for (int zero = 0; zero < Tile<TypeParam>::kCoding.codes(); ++zero) {
    const auto pair = pack<Element>(static_cast<float>(zero), static_cast<float>(zero / 2));
    const std::uint32_t shorter = Converter::template zeros<Element, false>(pair).less;
    const std::uint32_t longer = Converter::template zeros<Element, true>(pair).less;
    ASSERT_EQ(low_float<Element>(shorter), low_float<Element>(longer)) << zero;
    ASSERT_EQ(high_float<Element>(shorter), high_float<Element>(longer)) << zero;
    ASSERT_EQ(Converter::template fractions<Element>(pair) & 0x7FFF7FFFu, 0u) << zero;
  }
}

// Integers below the codes and beyond: exact where the difference to the code is one of the type's integers, which all
// have up to 256 (bf16) or 2048; beyond, rounded to it, twice at most.
TYPED_TEST(ConvertZeros, WideIntegersAreExactAsFarAsTheTypeGoes) {
  using Element = typename Tile<TypeParam>::Element;
  constexpr Coding kCoding = Tile<TypeParam>::kCoding;
  const float integers = kIsBf16<Element> ? 256 : 2048;
  std::vector<std::uint8_t> codes(kRows * kDepth);
  for (std::size_t i = 0; i < codes.size(); ++i) {
    codes[i] = static_cast<std::uint8_t>(i * 5 % static_cast<std::size_t>(kCoding.codes()));
  }
  const auto tile = Tile<TypeParam>::packed(codes);
  int exact = 0;
  for (int first = -2 * kCoding.codes(); first < 3 * kCoding.codes(); first += kRows) {
    std::array<float, kRows> zeros{};
    for (int i = 0; i < kRows; ++i)
      zeros[static_cast<std::size_t>(i)] = static_cast<float>(Element(static_cast<float>(first + i)));
    Tile<TypeParam>::for_each_value(tile, zeros, [&](int row, int k, float value) {
      const auto at = static_cast<std::size_t>(row);
      const float expected = static_cast<float>(codes[at * kDepth + static_cast<std::size_t>(k)]) - zeros[at];
      if (std::abs(expected) <= integers && zeros[at] >= -128) {
        ASSERT_EQ(value, expected) << "zero point " << zeros[at];
        ++exact;
      } else {
        ASSERT_LE(std::abs(value - expected), std::abs(expected) * 2 / integers) << "zero point " << zeros[at];
      }
    });
  }
  EXPECT_GT(exact, 5000);
}

}  // namespace
}  // namespace machete::convert
