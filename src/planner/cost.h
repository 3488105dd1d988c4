#pragma once

#include <cstddef>
#include <string>

#include "machete/problem.h"
#include "planner/machine.h"
#include "planner/schedule.h"

namespace machete::planner {

/// What the model expects of a schedule, in microseconds: the largest of three ceilings, and what nothing hides.
struct Estimate {
  double memory_us = 0;    // every byte once from memory
  double l2_us = 0;        // every tile's operands through L2
  double compute_us = 0;   // unpacking and MMA on the SM with the most work
  double overhead_us = 0;  // launch, first loads, what CTAs exchange, the last tile's store

  double total_us() const;
  std::string reason() const;  // which ceiling binds, in words
};

/// A model of first order: it ranks schedules, and tuning tables correct it where it was measured to be wrong.
Estimate estimate(const Problem& problem, const Schedule& schedule, const Machine& machine);

}  // namespace machete::planner
