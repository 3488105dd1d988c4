#pragma once

namespace machete::planner {

/// What the cost model knows of a GPU. Rates other than the read stream are fitted to a sweep of every schedule over
/// the suites (docs/design-notes.md).
struct Machine {
  int sms = 132;
  double read_tb_s = 3.1;   // read-only stream from memory, measured
  double l2_tb_s = 12;      // from L2 into the SMs, when they ask for the same activations at once
  double clock_ghz = 1.56;  // under load
};

}  // namespace machete::planner
