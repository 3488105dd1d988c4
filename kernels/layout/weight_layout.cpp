#include "kernels/layout/weight_layout.h"

// What the order rests on, asserted once: in the header it took half of what a kernel's headers take to compile.
namespace machete::layout {
namespace {

template <int kActivationBits>
inline constexpr bool kServesBoth = is_same_v<decltype(warp_fragment<kActivationBits>()),
                                              typename MMA_Traits<typename Mma<kActivationBits>::Warp>::ALayout>;
static_assert(kServesBoth<16> && kServesBoth<8>, "a strip must serve wgmma and mma.sync alike");
static_assert(
    is_same_v<MMA_Traits<SM90_64x8x32_F32E4M3E4M3_RS_TN<>>::ALayout, MMA_Traits<typename Mma<8>::Warpgroup>::ALayout>,
    "int8 and e4m3 must share an order");

template <int kBits, int kActivationBits>
constexpr bool is_bijection() {
  constexpr int kElements = kTileBytes * 8 / kBits;
  constexpr auto tile = tile_layout<kBits, kActivationBits>();
  return size(tile) == kElements && cosize(tile) == kElements &&
         size(tile_inverse<kBits, kActivationBits>()) == kElements;
}
static_assert(is_bijection<4, 16>() && is_bijection<8, 16>() && is_bijection<4, 8>() && is_bijection<8, 8>());

}  // namespace
}  // namespace machete::layout
