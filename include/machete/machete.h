#pragma once

/// Machete: D = A · dequant(W)ᵀ with 4-bit weights and 16-bit activations on NVIDIA Hopper, and on any CPU.
///
///   auto packed = machete::prepack(quantized);                 // once a weight
///   auto plan = machete::plan({m, n, k});                      // once a shape
///   machete::run(*plan, {a, &*packed, d}, workspace, plan->workspace_size(), stream);

#include "machete/epilogue.h"
#include "machete/linear.h"
#include "machete/problem.h"
#include "machete/status.h"
#include "machete/tokens.h"
#include "machete/types.h"
#include "machete/version.h"
#include "machete/weight.h"
