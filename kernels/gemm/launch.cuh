#pragma once

/// The host side of one compiled kernel: arguments to parameters, and the launch.

#include <algorithm>

#include "kernels/epilogue/store_of.h"
#include "kernels/gemm/gemm.cuh"
#include "kernels/kernel.h"
#include "kernels/launch.h"

namespace machete::gemm {

template <class Config>
using NamedTree = epilogue::NamedTree<typename Config::Element>;

template <class Config>
int prepare() {
  constexpr int kBytes = sizeof(typename Config::SharedStorage);
  const int status = kernels::prepare(reinterpret_cast<const void*>(&gemm<Config, epilogue::NoTree>), kBytes);
  if (status != 0) return status;
  return kernels::prepare(reinterpret_cast<const void*>(&gemm<Config, NamedTree<Config>>), kBytes);
}

template <class Config>
epilogue::Store<typename Config::Element> store_of(const kernels::Launch& launch) {
  return kernels::store_of<typename Config::Element>(launch, ConsumerOf<Config>::kCodeUnit);
}

template <class Config>
Shares shares(const packing::Shape& shape, std::int64_t m, int sms, bool stream_k) {
  const int tiles = kernels::ceil_div(shape.packed_rows(), Config::kTileN) * kernels::ceil_div(m, Config::kTileM);
  return shares_of(tiles, kernels::ceil_div(shape.k, Config::kTilesPerStep * layout::kTileK), sms, stream_k);
}

/// With a tree of visitors, or epilogue::NoTree.
template <class Config, class Tree>
int launch_with(const typename Tree::Params& tree, const kernels::Launch& launch, void* stream) {
  Params<Config, Tree> params;
  params.groups = layout::groups_of(launch.shape, Config::kTileK);
  params.source = is_source(launch);
  if (!encode_tensor_maps<Config>(launch, params.groups, params.source, &params.maps)) return cudaErrorInvalidValue;
  params.fractional_zero_points = launch.fractional_zero_points;
  params.fast_accumulation = launch.fast_accumulation;
  params.store = store_of<Config>(launch);
  params.tree = tree;
  params.raster = {kernels::ceil_div(launch.shape.packed_rows(), Config::kTileN),
                   kernels::ceil_div(launch.m, Config::kTileM)};
  params.shares = shares<Config>(launch.shape, launch.m, launch.sms, launch.stream_k);
  params.exchange = Exchange<Config>::in(launch.workspace, params.shares.ctas);
  params.overlap = launch.overlap;
  params.timeline.moments = static_cast<std::uint64_t*>(launch.timeline);
  return kernels::launch(&gemm<Config, Tree>, params,
                         {params.shares.ctas, Config::kThreads, sizeof(typename Config::SharedStorage)}, launch.overlap,
                         stream);
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
const char* refusal(const packing::Shape& shape, std::int64_t) {
  return ConsumerOf<Config>::refusal(shape);
}

/// Bytes; whatever is in them will do.
template <class Config>
std::size_t workspace(const packing::Shape& shape, std::int64_t m, int sms, bool stream_k) {
  const Shares shared = shares<Config>(shape, m, sms, stream_k);
  return shared.shared > 0 ? Exchange<Config>::bytes(shared.ctas) : 0;
}

template <class Config>
constexpr kernels::Kernel make_kernel(const char* name) {
  kernels::Kernel kernel = {};
  kernel.name = name;
  kernel.family = kernels::Family::kGemm;
  kernel.w_type = Config::Converter::kType;
  kernel.a_type = convert::kDataType<typename Config::Activation>;
  kernel.scale_type = convert::kDataType<typename Config::Element>;
  kernel.tile = {Config::kTileN, Config::kTileM, Config::kTileK};
  kernel.ctas_per_sm = 1;
  kernel.stream_k = true;
  kernel.aligned_rows = true;
  kernel.epilogues = true;
  kernel.fast_only = ConsumerOf<Config>::kFastOnly;
  kernel.function = reinterpret_cast<const void*>(&gemm<Config, epilogue::NoTree>);
  kernel.shared_memory = &shared_memory<Config>;
  kernel.refusal = &refusal<Config>;
  kernel.workspace = &workspace<Config>;
  kernel.prepare = &prepare<Config>;
  kernel.launch = &launch<Config>;
  return kernel;
}

}  // namespace machete::gemm
