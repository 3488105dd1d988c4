#pragma once

/// The host side of one compiled kernel.

#include "kernels/epilogue/store_of.h"
#include "kernels/kernel.h"
#include "kernels/launch.h"
#include "kernels/turns/share.h"
#include "kernels/turns/turns.cuh"

namespace machete::turns {

template <class Config>
using NamedTree = epilogue::NamedTree<typename Config::Element>;

template <class Config>
int prepare() {
  constexpr int kBytes = sizeof(typename Config::SharedStorage);
  const int status = kernels::prepare(reinterpret_cast<const void*>(&turns<Config, epilogue::NoTree>), kBytes);
  if (status != 0) return status;
  return kernels::prepare(reinterpret_cast<const void*>(&turns<Config, NamedTree<Config>>), kBytes);
}

template <class Config>
epilogue::Store<typename Config::Element> store_of(const kernels::Launch& launch) {
  constexpr float kCodeUnit = Config::Converter::template kCodeUnit<typename Config::Activation>;
  return kernels::store_of<typename Config::Element>(launch, kCodeUnit);
}

template <class Config, class Tree>
int launch_with(const typename Tree::Params& tree, const kernels::Launch& launch, void* stream) {
  Params<Config, Tree> params;
  params.groups = layout::groups_of(launch.shape, Config::kTileK);
  params.source = gemm::is_source(launch);
  if (!gemm::encode_tensor_maps<Config>(launch, params.groups, params.source, &params.maps)) {
    return cudaErrorInvalidValue;
  }
  params.tree = tree;
  params.store = store_of<Config>(launch);
  params.tiles = kernels::ceil_div(launch.shape.packed_rows(), Config::kTileN);
  params.share = share_of(params.tiles, launch.sms);
  params.turns = kernels::ceil_div(launch.shape.k, Config::kTileK);
  const int ctas = ctas_of(params.tiles, params.share);
  params.exchange = gemm::Exchange<Config>::in(launch.workspace, ctas);
  params.overlap = launch.overlap;
  params.timeline.moments = static_cast<std::uint64_t*>(launch.timeline);
  return kernels::launch(&turns<Config, Tree>, params, {ctas, Config::kThreads, sizeof(typename Config::SharedStorage)},
                         launch.overlap, stream);
}

template <class Config>
int launch(const kernels::Launch& launch, void* stream) {
  if (launch.rounds_only()) return launch_with<Config, epilogue::NoTree>({}, launch, stream);
  const auto tree = epilogue::params_of_named(store_of<Config>(launch));
  return launch_with<Config, NamedTree<Config>>(tree, launch, stream);
}

template <class Config>
int shared_memory(const packing::Shape&) {
  return sizeof(typename Config::SharedStorage);
}

template <class Config>
const char* refusal(const packing::Shape& shape, std::int64_t tokens) {
  if (tokens > Config::kTileM) return "more tokens than the kernel is compiled for";
  const std::int64_t size = shape.packed_group_size;
  if (size % Config::kTileK != 0 && size != 64 && size != 32) {
    return "it scales sums of 32, 64 or 128 k, and the groups end within them";
  }
  return nullptr;
}

/// Bytes; whatever is in them will do.
template <class Config>
std::size_t workspace(const packing::Shape& shape, std::int64_t, int sms, bool) {
  const int tiles = kernels::ceil_div(shape.packed_rows(), Config::kTileN);
  const int share = share_of(tiles, sms);
  return shares_tiles(share) ? gemm::Exchange<Config>::bytes(ctas_of(tiles, share)) : 0;
}

template <class Config>
constexpr kernels::Kernel make_kernel(const char* name) {
  kernels::Kernel kernel = {};
  kernel.name = name;
  kernel.family = kernels::Family::kTurns;
  kernel.w_type = Config::Converter::kType;
  kernel.a_type = convert::kDataType<typename Config::Activation>;
  kernel.scale_type = kernel.a_type;
  kernel.tile = {Config::kTileN, Config::kTileM, Config::kTileK};
  kernel.ctas_per_sm = 1;
  kernel.aligned_rows = true;
  kernel.epilogues = true;
  kernel.order = kClasses;
  kernel.function = reinterpret_cast<const void*>(&turns<Config, epilogue::NoTree>);
  kernel.shared_memory = &shared_memory<Config>;
  kernel.refusal = &refusal<Config>;
  kernel.workspace = &workspace<Config>;
  kernel.prepare = &prepare<Config>;
  kernel.launch = &launch<Config>;
  return kernel;
}

}  // namespace machete::turns
