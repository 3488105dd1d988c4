#pragma once

#include "machete/problem.h"
#include "machete/status.h"
#include "machete/weight.h"
#include "reference/gemm.h"

namespace machete::reference {

/// The CPU backend: D = A * dequant(W)^T, everything in CPU memory, done when it returns. Decoded weights are exact in
/// fp32, products accumulate in fp32 and are rounded once, at the store. The result depends neither on the number of
/// threads nor on the timing. The problem may also ask for f32 activations or outputs.
Status linear(const Problem& problem, const void* a /* [M, K] */, const PackedWeight& weight, void* d /* [M, N] */,
              InstructionSet set = best_instruction_set());

}  // namespace machete::reference
