#pragma once

#include "machete/status.h"
#include "machete/types.h"

namespace machete::tools {

/// Prints what plan and run of one 16x16 linear cost the host, as a table. On the CPU a run with tokens
/// computes as well; on a GPU it is queued, and not waited for.
Status print_host_cost(Device device);

}  // namespace machete::tools
