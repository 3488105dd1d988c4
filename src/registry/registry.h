#pragma once

#include <vector>

#include "kernels/kernel.h"

namespace machete::registry {

/// What instances/ compiled, a list for each pair of types; generated from the manifest.
std::vector<kernels::KernelList> compiled_kernels();

/// Every compiled kernel, in the manifest's order.
const std::vector<const kernels::Kernel*>& all();

/// The type whose kernels serve this one, packed alike, as the manifest has it.
WeightType packed_as(WeightType w_type);

/// Those for a pair of types.
std::vector<const kernels::Kernel*> matching(WeightType w_type, DataType a_type);
/// Of those the kernels whose scales are of a type.
std::vector<const kernels::Kernel*> matching(WeightType w_type, DataType a_type, DataType scale_type);

}  // namespace machete::registry
