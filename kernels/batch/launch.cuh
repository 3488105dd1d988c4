#pragma once

/// The host side of one compiled batch kernel.

#include "kernels/batch/batch.cuh"
#include "kernels/epilogue/store_of.h"
#include "kernels/kernel.h"
#include "kernels/launch.h"
#include "kernels/tensor_map.h"

namespace machete::batch {

template <class Config>
SharedLayout<Config> shared_layout(const packing::Shape& shape, std::int64_t tokens = Config::kTokens) {
  return SharedLayout<Config>::make(layout::groups_of(shape, Config::kSlotK).per_stage, static_cast<int>(tokens));
}

template <class Config>
int shared_memory(const packing::Shape& shape) {
  return shared_layout<Config>(shape).bytes;
}

template <class Config>
const char* refusal(const packing::Shape& shape, std::int64_t tokens) {
  if (tokens > Config::kTokens) return "more tokens than the kernel is compiled for";
  if (shared_layout<Config>(shape).ring.slots < 1) return "a slot's scales do not fit into shared memory";
  return nullptr;
}

template <class Config>
int prepare() {
  const int status =
      kernels::prepare(reinterpret_cast<const void*>(&batch<Config, false>), SharedLayout<Config>::kLimit);
  if (status != 0) return status;
  return kernels::prepare(reinterpret_cast<const void*>(&batch<Config, true>), SharedLayout<Config>::kLimit);
}

template <class Config>
int launch(const kernels::Launch& launch, void* stream) {
  using Element = typename Config::Element;
  const auto& shape = launch.shape;
  Params<Config> params;
  params.groups = layout::groups_of(shape, Config::kSlotK);
  if (!kernels::encode_activations(launch, static_cast<int>(launch.m), &params.maps.activations) ||
      !kernels::encode_weights(launch, Config::kSlotK, Config::kStrips, &params.maps.weights) ||
      !(Config::Converter::kZeroPoints
            ? kernels::encode_scales_and_zeros(launch, params.groups.per_stage, Config::kStrips, &params.maps.scales)
            : kernels::encode_scales(launch, launch.scales, params.groups.per_stage, Config::kStrips,
                                     &params.maps.scales))) {
    return cudaErrorInvalidValue;
  }
  params.fractional_zero_points = launch.fractional_zero_points;
  params.shared = shared_layout<Config>(shape, launch.m);
  params.row_tiles = stream::RowTiles::share(kernels::ceil_div(shape.packed_rows(), Config::kRows), launch.sms);
  params.store = kernels::store_of<Element>(launch, Config::Converter::template kCodeUnit<Element>);
  params.slots_of_k = kernels::ceil_div(shape.k, Config::kTurnK) * Config::kTurnSlots;
  params.early_slots = stream::early_slots(params.row_tiles, Config::kTokens, params.slots_of_k, Config::kWarps,
                                           params.shared.ring.slots);
  params.timeline.moments = static_cast<std::uint64_t*>(launch.timeline);
  return kernels::launch(launch.rounds_only() ? &batch<Config, false> : &batch<Config, true>, params,
                         {params.row_tiles.ctas, Config::kThreads, params.shared.bytes}, launch.overlap, stream);
}

template <class Config>
constexpr kernels::Kernel make_kernel(const char* name) {
  kernels::Kernel kernel = {};
  kernel.name = name;
  kernel.family = kernels::Family::kBatch;
  kernel.w_type = Config::Converter::kType;
  kernel.a_type = convert::kDataType<typename Config::Element>;
  kernel.scale_type = kernel.a_type;
  kernel.tile = {Config::kRows, Config::kTokens, Config::kSlotK};
  kernel.ctas_per_sm = 1;
  kernel.aligned_rows = true;
  kernel.epilogues = true;
  kernel.order = Config::kWarps;
  kernel.function = reinterpret_cast<const void*>(&batch<Config, false>);
  kernel.shared_memory = &shared_memory<Config>;
  kernel.refusal = &refusal<Config>;
  kernel.prepare = &prepare<Config>;
  kernel.launch = &launch<Config>;
  return kernel;
}

}  // namespace machete::batch
