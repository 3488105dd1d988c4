#pragma once

#include <string>
#include <vector>

#include "kernels/kernel.h"
#include "machete/problem.h"

namespace machete::planner {

/// A compiled kernel and how it is launched. Its name, "<kernel>" or "<kernel>_streamk", says all of it.
struct Schedule {
  const kernels::Kernel* kernel = nullptr;
  bool stream_k = false;  // CTAs share tiles where whole ones would leave some idle

  std::string name() const;
};

/// The sizes of the problem's packed weight.
packing::Shape shape_of(const Problem& problem);

/// Why a kernel cannot serve the problem, or null.
const char* refusal(const kernels::Kernel& kernel, const Problem& problem);

/// Why none of the kernels can serve so many tokens of a weight, which is what the first one says; null if one can.
const char* refusal(const std::vector<const kernels::Kernel*>& kernels, const packing::Shape& shape,
                    std::int64_t tokens);

/// Every schedule the kernels allow: each kernel, with whole tiles and with stream-K.
std::vector<Schedule> schedules_of(const std::vector<const kernels::Kernel*>& kernels);

/// The schedule of that name, or the error that lists what exists.
Result<Schedule> parse_schedule(const std::string& name, const std::vector<const kernels::Kernel*>& kernels);

}  // namespace machete::planner
