#pragma once

/// The host side of one compiled decode kernel.

#include <cuda_runtime_api.h>

#include "kernels/decode/decode.cuh"
#include "kernels/gemm/groups.h"
#include "kernels/kernel.h"
#include "kernels/tensor_map.h"

namespace machete::decode {

template <class Config>
SharedLayout<Config> shared_layout(const packing::Shape& shape) {
  const int slots_of_k = static_cast<int>((shape.k + Config::kSlotK - 1) / Config::kSlotK);
  return SharedLayout<Config>::make(slots_of_k, gemm::groups_of(shape, Config::kSlotK).per_stage);
}

template <class Config>
int shared_memory(const packing::Shape& shape) {
  return shared_layout<Config>(shape).bytes;
}

template <class Config>
const char* refusal(const packing::Shape& shape, std::int64_t tokens) {
  if (tokens > Config::kTokens) return "more tokens than the kernel is compiled for";
  if (shape.packed_group_size < 32) return "groups of 16 (or 48, 80, ...) are smaller than one integer MMA's k";
  if (shape.k > 64 * 1024 || shared_layout<Config>(shape).slots_per_warp < 2)
    return "the activations' planes do not fit into shared memory";
  return nullptr;
}

template <class Config>
int prepare() {
  const cudaError_t error =
      cudaFuncSetAttribute(decode<Config>, cudaFuncAttributeMaxDynamicSharedMemorySize, SharedLayout<Config>::kLimit);
  if (error != cudaSuccess) return error;
  // Kernels that divide an SM's memory differently cannot follow each other without a pause.
  return cudaFuncSetAttribute(decode<Config>, cudaFuncAttributePreferredSharedMemoryCarveout,
                              cudaSharedmemCarveoutMaxShared);
}

template <class Config>
int launch(const kernels::Launch& launch, void* stream) {
  using Element = typename Config::Element;
  const auto& shape = launch.shape;
  const gemm::Groups groups = gemm::groups_of(shape, Config::kSlotK);
  const auto strips = static_cast<std::uint64_t>(shape.n_padded) / layout::kStripRows;
  const auto k_padded = static_cast<std::uint64_t>(shape.k_padded);
  const auto packed_groups = static_cast<std::uint64_t>(shape.packed_groups);
  const auto encode = reinterpret_cast<kernels::EncodeTensorMap>(launch.encode_tensor_map);

  Params<Config> params;
  if (kernels::encode_tensor_map<2>(encode, &params.maps.weights, CU_TENSOR_MAP_DATA_TYPE_UINT64, launch.weights,
                                    {k_padded, strips}, {k_padded * 8}, {Config::kSlotK, Config::kStrips},
                                    CU_TENSOR_MAP_SWIZZLE_NONE) != CUDA_SUCCESS ||
      kernels::encode_tensor_map<3>(encode, &params.maps.scales, CU_TENSOR_MAP_DATA_TYPE_UINT16, launch.scales,
                                    {layout::kStripRows, packed_groups, strips},
                                    {layout::kStripRows * 2, packed_groups * layout::kStripRows * 2},
                                    {layout::kStripRows, static_cast<std::uint32_t>(groups.per_stage), Config::kStrips},
                                    CU_TENSOR_MAP_SWIZZLE_NONE) != CUDA_SUCCESS) {
    return cudaErrorInvalidValue;
  }
  params.groups = {groups, cutlass::FastDivmod(groups.fine() ? 1 : groups.tiles_per_group)};
  params.shared = shared_layout<Config>(shape);
  params.a = static_cast<const Element*>(launch.a);
  params.d = static_cast<Element*>(launch.d);
  params.weights = static_cast<const std::uint8_t*>(launch.weights);
  params.scales = static_cast<const Element*>(launch.scales);
  params.lda = launch.lda;
  params.ldd = launch.ldd;
  params.m = static_cast<int>(launch.m);
  params.n = static_cast<int>(shape.n);
  params.k = static_cast<int>(shape.k);
  params.k_padded = static_cast<int>(shape.k_padded);
  params.packed_groups = static_cast<int>(shape.packed_groups);
  params.slots_of_k = static_cast<int>((shape.k + Config::kSlotK - 1) / Config::kSlotK);
  params.row_tiles = static_cast<int>((shape.n + Config::kRows - 1) / Config::kRows);

  // As few CTAs as share the row tiles evenly: an idle one would only delay the kernel behind it.
  const int passes = (params.row_tiles + launch.sms - 1) / launch.sms;
  const int ctas = (params.row_tiles + passes - 1) / passes;
  // Weights fetched before the activations are there delay them: a burst of a whole ring by up to 5 us. A small linear
  // gains most from its activations, a large one from keeping memory busy.
  const int slots_of_warp = passes * params.slots_of_k / Config::kWarps;
  params.early_slots = launch.overlap ? (slots_of_warp <= 2 ? 1 : 2) : 0;
  params.shorter = params.row_tiles / ctas;
  params.longer = params.row_tiles % ctas;
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(ctas);
  config.blockDim = dim3(Config::kThreads);
  config.dynamicSmemBytes = params.shared.bytes;
  config.stream = static_cast<cudaStream_t>(stream);
  cudaLaunchAttribute attribute = {};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  config.attrs = &attribute;
  config.numAttrs = launch.overlap ? 1 : 0;
  return cudaLaunchKernelEx(&config, decode<Config>, params);
}

template <class Config>
constexpr kernels::Kernel make_kernel(const char* name, WeightType w_type, DataType a_type) {
  kernels::Kernel kernel = {};
  kernel.name = name;
  kernel.family = kernels::Family::kDecode;
  kernel.w_type = w_type;
  kernel.a_type = a_type;
  kernel.tile = {Config::kRows, Config::kTokens, Config::kSlotK};
  kernel.ctas_per_sm = 1;
  kernel.max_splits = 1;
  kernel.may_overlap = true;
  kernel.aligned_rows = false;
  kernel.function = reinterpret_cast<const void*>(&decode<Config>);
  kernel.shared_memory = &shared_memory<Config>;
  kernel.refusal = &refusal<Config>;
  kernel.prepare = &prepare<Config>;
  kernel.launch = &launch<Config>;
  return kernel;
}

}  // namespace machete::decode
