#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <functional>
#include <vector>

#include "machete/status.h"

namespace machete::bench {

/// One of the things timed side by side. launch(i, stream) enqueues its i-th repetition; rotating the operands with i
/// is up to it.
struct Contender {
  std::function<Status(std::int64_t i, cudaStream_t stream)> launch;
  std::int64_t min_launches = 1;  // in one graph
};

/// Microseconds a launch for each contender: medians over replays of CUDA graphs that hold at least 2 ms of launches
/// back to back, so that the graph's own start (about 10 µs) does not show. The contenders' graphs run in turn, hence
/// all meet the same clocks, power and temperature. `replays` of each; 0: as many as take about 40 ms.
Result<std::vector<double>> time_in_turn(const std::vector<Contender>& contenders, cudaStream_t stream,
                                         int replays = 0);

/// One replay of a graph of contender.min_launches launches, after one that warms up.
Status run_once(const Contender& contender, cudaStream_t stream);

}  // namespace machete::bench
