#pragma once

#include <cstddef>
#include <string>

#include "kernels/prepack/shape.h"
#include "machete/linear.h"
#include "planner/schedule.h"

namespace machete::internal {

/// Everything `run` needs, decided beforehand.
struct PlanState {
  Problem problem;  // strides filled in
  Device device;
  std::string schedule_name;
  std::size_t workspace_size = 0;
  packing::Shape shape;

  // CUDA only
  planner::Schedule schedule;
  int sms = 0;  // of the device
  bool overlap = false;
  bool realign = false;  // the rows of A do not start on 16 bytes: copy them into the workspace first
  void* encode_tensor_map = nullptr;
  void* timeline = nullptr;  // where kernels record their course (kernels/timeline.h); for measurements
};

}  // namespace machete::internal
