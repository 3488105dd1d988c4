#if defined(__x86_64__)  // with the options that src/CMakeLists.txt gives this file

// Eigen's templates under a name of their own: the linker must not mix them with those of other instruction sets.
#define Eigen EigenAvx2
#define MACHETE_GEMM_NAMESPACE avx2
#include "reference/gemm_kernel.h"

#endif
