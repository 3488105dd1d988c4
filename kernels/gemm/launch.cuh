#pragma once

/// The host side of one compiled kernel: arguments to parameters, and the launch.

#include <cuda_runtime_api.h>

#include <algorithm>

#include "kernels/gemm/gemm.cuh"
#include "kernels/gemm/groups.h"
#include "kernels/kernel.h"
#include "kernels/tensor_map.h"

namespace machete::gemm {

template <class Config>
int prepare() {
  const cudaError_t error = cudaFuncSetAttribute(gemm<Config>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                                 sizeof(typename Config::SharedStorage));
  if (error != cudaSuccess) return error;
  // Kernels that divide an SM's memory differently cannot follow each other without a pause.
  return cudaFuncSetAttribute(gemm<Config>, cudaFuncAttributePreferredSharedMemoryCarveout,
                              cudaSharedmemCarveoutMaxShared);
}

template <class Config>
CUresult encode_maps(const kernels::Launch& launch, const Groups& groups, TensorMaps* maps) {
  using Element = typename Config::Element;
  const auto encode = reinterpret_cast<kernels::EncodeTensorMap>(launch.encode_tensor_map);
  const auto type =
      is_same_v<Element, cutlass::bfloat16_t> ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 : CU_TENSOR_MAP_DATA_TYPE_FLOAT16;
  const auto& shape = launch.shape;
  const auto k = static_cast<std::uint64_t>(shape.k);
  const auto k_padded = static_cast<std::uint64_t>(shape.k_padded);
  const auto strips = static_cast<std::uint64_t>(shape.n_padded) / layout::kStripRows;
  const auto packed_groups = static_cast<std::uint64_t>(shape.packed_groups);

  CUresult result = kernels::encode_tensor_map<2>(
      encode, &maps->activations, type, launch.a, {k, static_cast<std::uint64_t>(launch.m)},
      {static_cast<std::uint64_t>(launch.lda) * 2}, {layout::kTileK, Config::kTileM}, CU_TENSOR_MAP_SWIZZLE_128B);
  if (result != CUDA_SUCCESS) return result;
  result = kernels::encode_tensor_map<2>(encode, &maps->weights, CU_TENSOR_MAP_DATA_TYPE_UINT64, launch.weights,
                                         {k_padded, strips}, {k_padded * 8}, {Config::kTileK, Config::kStrips},
                                         CU_TENSOR_MAP_SWIZZLE_NONE);
  if (result != CUDA_SUCCESS) return result;
  return kernels::encode_tensor_map<3>(
      encode, &maps->scales, type, launch.scales, {layout::kStripRows, packed_groups, strips},
      {layout::kStripRows * 2, packed_groups * layout::kStripRows * 2},
      {layout::kStripRows, static_cast<std::uint32_t>(groups.per_stage), Config::kStrips}, CU_TENSOR_MAP_SWIZZLE_NONE);
}

template <class Config>
int launch(const kernels::Launch& launch, void* stream) {
  using Element = typename Config::Element;
  const auto ceil_div = [](std::int64_t a, std::int64_t b) { return static_cast<int>((a + b - 1) / b); };

  Params<Config> params;
  params.groups = groups_of(launch.shape, Config::kTileK);
  if (encode_maps<Config>(launch, params.groups, &params.maps) != CUDA_SUCCESS) return cudaErrorInvalidValue;
  params.store = {static_cast<Element*>(launch.d), launch.ldd, static_cast<int>(launch.m),
                  static_cast<int>(launch.shape.n)};
  params.raster = {ceil_div(launch.shape.n, Config::kTileN), ceil_div(launch.m, Config::kTileM)};
  params.steps = ceil_div(launch.shape.k, Config::kTileK * Config::kStagesPerStep);
  params.splits = launch.splits;
  params.overlap = launch.overlap;

  const bool several_tiles = Config::kPersistent && launch.splits == 1;  // a CTA takes
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(several_tiles ? std::min(params.raster.size(), launch.sms * Config::kCtasPerSm)
                                      : params.raster.size() * launch.splits);
  config.blockDim = dim3(Config::kThreads);
  config.dynamicSmemBytes = sizeof(typename Config::SharedStorage);
  config.stream = static_cast<cudaStream_t>(stream);
  cudaLaunchAttribute attributes[2] = {};
  attributes[0].id = cudaLaunchAttributeClusterDimension;
  attributes[0].val.clusterDim = {static_cast<unsigned>(launch.splits), 1, 1};
  attributes[1].id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attributes[1].val.programmaticStreamSerializationAllowed = 1;
  config.attrs = attributes;
  config.numAttrs = launch.overlap ? 2 : 1;
  return cudaLaunchKernelEx(&config, gemm<Config>, params);
}

template <class Config>
int shared_memory(const packing::Shape&) {
  return sizeof(typename Config::SharedStorage);
}

inline const char* refusal(const packing::Shape&, std::int64_t) { return nullptr; }

inline constexpr int kMaxSplits = 8;  // the largest portable cluster

template <class Config>
constexpr kernels::Kernel make_kernel(const char* name, WeightType w_type, DataType a_type) {
  kernels::Kernel kernel = {};
  kernel.name = name;
  kernel.family = kernels::Family::kGemm;
  kernel.w_type = w_type;
  kernel.a_type = a_type;
  kernel.tile = {Config::kTileN, Config::kTileM, Config::kTileK};
  kernel.ctas_per_sm = Config::kCtasPerSm;
  kernel.max_splits = kMaxSplits;
  // Larger tiles come in several kernels a model, and changing kernels under dependent launch costs more than it hides.
  kernel.may_overlap = Config::kTileM <= 32;
  kernel.aligned_rows = true;
  kernel.function = reinterpret_cast<const void*>(&gemm<Config>);
  kernel.shared_memory = &shared_memory<Config>;
  kernel.refusal = &refusal;
  kernel.prepare = &prepare<Config>;
  kernel.launch = &launch<Config>;
  return kernel;
}

}  // namespace machete::gemm
