#pragma once

#include <cutlass/bfloat16.h>
#include <cutlass/half.h>

#include <cstdint>
#include <cute/arch/mma_sm90.hpp>
#include <cute/atom/mma_atom.hpp>
#include <cute/atom/mma_traits_sm90_gmma.hpp>

/// The MMAs of the GEMM: CUTLASS's, and of 48 and 160 tokens these, which CUTLASS has in headers that take a compiler
/// 18 seconds to read.
namespace machete::gemm {

/// wgmma m64n<kTokens>k16: weights in registers, activations in shared memory, fp32 sums.
template <class Element, int kTokens>
struct Wgmma {
  using DRegisters = void;
  using ARegisters = std::uint32_t[4];
  using BRegisters = std::uint64_t[1];
  using CRegisters = float[kTokens / 2];

  __device__ static void fma(const std::uint32_t* a, std::uint64_t b, float* d, int accumulate) {
#if defined(CUTE_ARCH_MMA_SM90A_ENABLED)
    constexpr bool kBf16 = std::is_same_v<Element, cutlass::bfloat16_t>;
    static_assert(kBf16 || std::is_same_v<Element, cutlass::half_t>);
    static_assert(kTokens == 48 || kTokens == 160);
// clang-format off
#define MACHETE_FLOATS_8(i) \
  "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), "+f"(d[i + 6]), "+f"(d[i + 7])
#define MACHETE_FLOATS_24 MACHETE_FLOATS_8(0), MACHETE_FLOATS_8(8), MACHETE_FLOATS_8(16)
#define MACHETE_FLOATS_80 \
  MACHETE_FLOATS_24, MACHETE_FLOATS_8(24), MACHETE_FLOATS_8(32), MACHETE_FLOATS_8(40), MACHETE_FLOATS_8(48), \
  MACHETE_FLOATS_8(56), MACHETE_FLOATS_8(64), MACHETE_FLOATS_8(72)
#define MACHETE_NAMES_24 \
  "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, " \
  "%16, %17, %18, %19, %20, %21, %22, %23"
#define MACHETE_NAMES_80 \
  "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, " \
  "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, " \
  "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, " \
  "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63, " \
  "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79"
#define MACHETE_WGMMA(shape, type, count, a0, a1, a2, a3, desc, predicate)                                   \
  asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %" #predicate ", 0;\n"                                      \
               "wgmma.mma_async.sync.aligned." shape ".f32." type "." type " {" MACHETE_NAMES_##count "}, "   \
               "{%" #a0 ", %" #a1 ", %" #a2 ", %" #a3 "}, %" #desc ", p, 1, 1, 0;\n}\n"                      \
               : MACHETE_FLOATS_##count                                                                       \
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(accumulate))
    if constexpr (kTokens == 48 && kBf16) MACHETE_WGMMA("m64n48k16", "bf16", 24, 24, 25, 26, 27, 28, 29);
    if constexpr (kTokens == 48 && !kBf16) MACHETE_WGMMA("m64n48k16", "f16", 24, 24, 25, 26, 27, 28, 29);
    if constexpr (kTokens == 160 && kBf16) MACHETE_WGMMA("m64n160k16", "bf16", 80, 80, 81, 82, 83, 84, 85);
    if constexpr (kTokens == 160 && !kBf16) MACHETE_WGMMA("m64n160k16", "f16", 80, 80, 81, 82, 83, 84, 85);
#undef MACHETE_WGMMA
#undef MACHETE_NAMES_80
#undef MACHETE_NAMES_24
#undef MACHETE_FLOATS_80
#undef MACHETE_FLOATS_24
#undef MACHETE_FLOATS_8
// clang-format on
#endif
  }
};

template <class Element, int kTokens, class D, class LayoutD, class A, class LayoutA, class B, class LayoutB, class C,
          class LayoutC>
__device__ void mma_unpack(const cute::MMA_Traits<Wgmma<Element, kTokens>>& traits, cute::Tensor<D, LayoutD>& sums,
                           const cute::Tensor<A, LayoutA>& weights, const cute::Tensor<B, LayoutB>& activations,
                           const cute::Tensor<C, LayoutC>&) {
  cute::Tensor a = cute::recast<std::uint32_t>(weights);      // (4)
  cute::Tensor b = cute::recast<std::uint64_t>(activations);  // (1)
  Wgmma<Element, kTokens>::fma(&a(0), b(0), &sums(0), static_cast<int>(traits.accumulate_));
}

/// Of the tile's rows, all warpgroups' together.
template <class Activation, class Sum, int kTokens>
constexpr auto mma_op() {
  using namespace cute;  // NOLINT(google-build-using-namespace)
  if constexpr (kTokens == 48 || kTokens == 160) {
    return Wgmma<Activation, kTokens>{};
  } else {
    return GMMA::rs_op_selector<Activation, Activation, Sum, Shape<_64, Int<kTokens>, _64>, GMMA::Major::K,
                                GMMA::Major::K>();
  }
}

}  // namespace machete::gemm

template <class Element, int kTokens>
struct cute::MMA_Traits<machete::gemm::Wgmma<Element, kTokens>> {
  using ValTypeD = float;
  using ValTypeA = Element;
  using ValTypeB = Element;
  using ValTypeC = float;
  using FrgTypeB = GMMA::smem_desc<GMMA::Major::K>;
  using Shape_MNK = Shape<_64, Int<kTokens>, _16>;
  using ThrID = Layout<_128>;
  using ALayout = GMMA::ALayout_64x16;
  using BLayout = GMMA::ABLayout<kTokens, 16>;
  using CLayout = GMMA::CLayout_64xN<kTokens>;

  GMMA::ScaleOut accumulate_ = GMMA::ScaleOut::One;
};
