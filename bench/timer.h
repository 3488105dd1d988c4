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

/// What a measurement may cost.
struct Effort {
  double graph_us = 4000;  // launches of about so long in a graph; of half as long at least
  int replays = 0;         // of each graph; 0: as many as take about 40 ms
};

/// Microseconds a launch for each contender: medians over replays of CUDA graphs that hold launches back to back, 2 ms
/// of them unless told otherwise, so that the graph's own start (about 10 µs) does not show. The contenders' graphs run
/// in turn, hence all meet the same clocks, power and temperature.
Result<std::vector<double>> time_in_turn(const std::vector<Contender>& contenders, cudaStream_t stream,
                                         const Effort& effort = {});

/// The same of many contenders of which the fastest matter: a short round of all, then one as above of those that came
/// within `margin` times the best, whose times replace their first ones.
inline constexpr Effort kShortRound{400, 3};
Result<std::vector<double>> time_fastest(const std::vector<Contender>& contenders, cudaStream_t stream, double margin);

/// One replay of a graph of contender.min_launches launches, after one that warms up.
Status run_once(const Contender& contender, cudaStream_t stream);

}  // namespace machete::bench
