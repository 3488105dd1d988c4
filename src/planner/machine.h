#pragma once

namespace machete::planner {

/// What the cost model knows of a GPU.
struct Machine {
  int sms = 132;
  double read_tb_s = 3.1;  // read-only stream from memory, measured
  double l2_tb_s = 5.5;    // from L2 into the SMs (derived from the tables of docs/design-notes.md)
  double clock_ghz = 1.6;  // under load
};

}  // namespace machete::planner
