#pragma once

#include <cstddef>

#include "machete/linear.h"

namespace machete::internal {

/// run() for a caller who knows already that all it passes lies on the plan's device: the CUDA runtime is not asked.
Status run_placed(const Plan& plan, const Arguments& arguments, void* workspace, std::size_t workspace_size,
                  Stream stream);

}  // namespace machete::internal
