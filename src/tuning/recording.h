#pragma once

#include <string>
#include <vector>

#include "kernels/kernel.h"
#include "machete/problem.h"
#include "machete/status.h"
#include "planner/machine.h"

namespace machete::tuning {

/// A schedule that was timed, with as much of its kernel as its name tells: what the cost model reads.
struct Trial {
  std::string schedule;
  kernels::Kernel kernel = {};
  bool stream_k = false;
  double us = 0;
};

/// What was measured at a point.
struct Recorded {
  Problem problem;
  bool overlap = false;
  std::vector<Trial> trials;  // at least one
};

/// The points of a file that `machete tune` wrote (FILE.measurements), to hold the cost model against.
Result<std::vector<Recorded>> read_recording(const std::string& path);

/// Microseconds that the model expects of each trial.
std::vector<double> estimates_of(const Recorded& recorded, const planner::Machine& machine);

/// What the model would choose, and what was fastest.
struct Verdict {
  const Trial* chosen = nullptr;
  const Trial* best = nullptr;

  double ratio() const { return chosen->us / best->us; }
};
Verdict judge(const Recorded& recorded, const planner::Machine& machine);

}  // namespace machete::tuning
