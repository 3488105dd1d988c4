#include "registry/registry.h"

#include <algorithm>

#include "kernels/convert/coding.h"

namespace machete::registry {

const std::vector<const kernels::Kernel*>& all() {
  static const std::vector<const kernels::Kernel*> kernels = [] {
    std::vector<const kernels::Kernel*> all;
    for (const kernels::KernelList& list : compiled_kernels()) {
      for (int i = 0; i < list.size; ++i) all.push_back(list.kernels + i);
    }
    return all;
  }();
  return kernels;
}

WeightType packed_as(WeightType w_type) {
  const convert::Type* type = convert::find(w_type);
  return type != nullptr ? type->runs_as : w_type;
}

std::vector<const kernels::Kernel*> matching(WeightType w_type, DataType a_type) {
  const WeightType packed = packed_as(w_type);
  std::vector<const kernels::Kernel*> matching;
  for (const kernels::Kernel* kernel : all()) {
    if (kernel->w_type == packed && kernel->a_type == a_type) matching.push_back(kernel);
  }
  return matching;
}

std::vector<const kernels::Kernel*> matching(WeightType w_type, DataType a_type, DataType scale_type) {
  auto kernels = matching(w_type, a_type);
  const auto other = [&](const kernels::Kernel* kernel) { return kernel->scale_type != scale_type; };
  kernels.erase(std::remove_if(kernels.begin(), kernels.end(), other), kernels.end());
  return kernels;
}

}  // namespace machete::registry
