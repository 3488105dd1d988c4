#if defined(__x86_64__)  // with the options that src/CMakeLists.txt gives this file

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // false in GCC's own AVX-512 intrinsics (GCC bug 105593)
#endif

// Eigen's templates under a name of their own: the linker must not mix them with those of other instruction sets.
#define Eigen EigenAvx512
#define MACHETE_GEMM_NAMESPACE avx512
#include "reference/gemm_kernel.h"

#endif
