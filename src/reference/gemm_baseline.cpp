// Eigen's templates under a name of their own: the linker must not mix them with those of other instruction sets.
#define Eigen EigenBaseline
#define MACHETE_GEMM_NAMESPACE baseline
#include "reference/gemm_kernel.h"
