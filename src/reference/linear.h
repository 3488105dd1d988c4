#pragma once

#include "machete/linear.h"
#include "machete/problem.h"
#include "machete/status.h"
#include "reference/gemm.h"

namespace machete::reference {

/// The CPU backend: D = A * dequant(W)^T, everything in CPU memory, done when it returns. Decoded weights are exact in
/// fp32, products accumulate in fp32, go through the epilogue in fp32 and are rounded once, at the store. The result
/// depends neither on the number of threads nor on the timing. The problem may also ask for f32 activations.
Status linear(const Problem& problem, const Arguments& arguments, InstructionSet set = best_instruction_set());

}  // namespace machete::reference
