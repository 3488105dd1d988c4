#pragma once

/// The host side of one compiled decode kernel.

#include "kernels/decode/decode.cuh"
#include "kernels/kernel.h"
#include "kernels/launch.h"
#include "kernels/tensor_map.h"

namespace machete::decode {

template <class Config>
SharedLayout<Config> shared_layout(const packing::Shape& shape) {
  return SharedLayout<Config>::make(kernels::ceil_div(shape.k, Config::kSlotK),
                                    layout::groups_of(shape, Config::kSlotK).per_stage);
}

template <class Config>
int shared_memory(const packing::Shape& shape) {
  return shared_layout<Config>(shape).bytes;
}

template <class Config>
const char* refusal(const packing::Shape& shape, std::int64_t tokens) {
  if (tokens > Config::kTokens) return "more tokens than the kernel is compiled for";
  if (shape.packed_group_size % 128 != 0) return "integers are scaled once in 128 k, and the groups are smaller";
  if (shape.k > 64 * 1024 || shared_layout<Config>(shape).ring.slots < 2)
    return "the activations' planes do not fit into shared memory";
  return nullptr;
}

template <class Config>
int prepare() {
  return kernels::prepare(reinterpret_cast<const void*>(&decode<Config>), SharedLayout<Config>::kLimit);
}

template <class Config>
int launch(const kernels::Launch& launch, void* stream) {
  using Element = typename Config::Element;
  const auto& shape = launch.shape;
  Params<Config> params;
  params.groups = layout::groups_of(shape, Config::kSlotK);
  if (!kernels::encode_weights(launch, Config::kSlotK, Config::kStrips, &params.maps.weights) ||
      !kernels::encode_scales(launch, launch.scales, params.groups.per_stage, Config::kStrips, &params.maps.scales)) {
    return cudaErrorInvalidValue;
  }
  params.shared = shared_layout<Config>(shape);
  params.row_tiles = stream::RowTiles::share(kernels::ceil_div(shape.n, Config::kRows), launch.sms);
  params.a = static_cast<const Element*>(launch.a);
  params.d = static_cast<Element*>(launch.d);
  params.weights = static_cast<const std::uint8_t*>(launch.weights);
  params.scales = static_cast<const Element*>(launch.scales);
  params.lda = launch.lda;
  params.ldd = launch.ldd;
  params.m = static_cast<int>(launch.m);
  params.n = static_cast<int>(shape.n);
  params.tensor_scale = launch.tensor_scale;
  params.k = static_cast<int>(shape.k);
  params.k_padded = static_cast<int>(shape.k_padded);
  params.packed_groups = static_cast<int>(shape.packed_groups);
  params.slots_of_k = kernels::ceil_div(shape.k, Config::kSlotK);
  params.timeline.moments = static_cast<std::uint64_t*>(launch.timeline);

  params.early_slots = stream::early_slots(params.row_tiles, Config::kTokens, params.slots_of_k, Config::kWarps,
                                           params.shared.ring.slots);
  return kernels::launch(&decode<Config>, params, {params.row_tiles.ctas, Config::kThreads, params.shared.bytes},
                         launch.overlap, stream);
}

template <class Config>
constexpr kernels::Kernel make_kernel(const char* name) {
  kernels::Kernel kernel = {};
  kernel.name = name;
  kernel.family = kernels::Family::kDecode;
  kernel.w_type = Config::Converter::kType;
  kernel.a_type = convert::kDataType<typename Config::Element>;
  kernel.scale_type = kernel.a_type;
  kernel.tile = {Config::kRows, Config::kTokens, Config::kSlotK};
  kernel.ctas_per_sm = 1;
  kernel.aligned_rows = false;
  kernel.function = reinterpret_cast<const void*>(&decode<Config>);
  kernel.shared_memory = &shared_memory<Config>;
  kernel.refusal = &refusal<Config>;
  kernel.prepare = &prepare<Config>;
  kernel.launch = &launch<Config>;
  return kernel;
}

}  // namespace machete::decode
