#pragma once

#include <cstddef>
#include <string>

#include "machete/problem.h"
#include "planner/machine.h"
#include "planner/schedule.h"

namespace machete::planner {

/// What the model expects of a schedule, in microseconds: several ceilings, and what they come to.
struct Estimate {
  double memory_us = 0;    // every byte once from memory
  double l2_us = 0;        // every tile's operands into the SMs
  double compute_us = 0;   // unpacking and MMA on the SM with the most work
  double power_us = 0;     // all MMAs and unpacking, where power limits the clock
  double expected_us = 0;  // with launch, first loads, what CTAs exchange, the last tile's store

  double total_us() const { return expected_us; }
  std::string reason() const;  // which ceiling binds, in words
};

/// A model of first order: it ranks schedules, and tuning tables correct it where it was measured to be wrong.
Estimate estimate(const Problem& problem, const Schedule& schedule, const Machine& machine);

}  // namespace machete::planner
