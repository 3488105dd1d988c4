#pragma once

#include <string>

#include "machete/status.h"
#include "machete/types.h"

namespace machete::tools {

/// Prints what plan and run of one 16x16 linear cost the host, as a table. On the CPU a run with tokens
/// computes as well; on a GPU it is queued, and not waited for. Into a file as JSON, too, unless the path is empty.
Status print_host_cost(Device device, const std::string& json_path);

}  // namespace machete::tools
