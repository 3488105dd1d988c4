#pragma once

#include <dlpack/dlpack.h>

#include <cstdint>

#include "native/tensor.h"

namespace machete::python {

/// The plans of products with weights of one kind under one set of options.
class PlanCache;

/// Of the output.
std::int64_t columns_of(const PlanCache& plans);

struct Operands {
  const TensorView& x;  // [..., K]; of kinds with 8-bit activations either codes, or quantised here
  const TensorView& packed;
  const TensorView& out;                     // [..., N], with swiglu [..., N / 2]
  const TensorView* token_scale = nullptr;   // [...], of codes
  const TensorView* output_scale = nullptr;  // one number, of outputs of e4m3
  const TensorView* bias = nullptr;          // [N] of the scales' type
};

/// One product. False: x, its scales or the bias have to be copied before, or lie elsewhere than out; nothing was done.
/// The stream and the workspace are torch's: by its `torch` interface, or where that is null by the environment that
/// tvm-ffi has set.
bool linear(PlanCache& plans, const Operands& operands, const DLPackExchangeAPI* torch = nullptr);

}  // namespace machete::python
