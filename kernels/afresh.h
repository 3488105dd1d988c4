#pragma once

namespace machete::kernels {

/// The same number, of which the compiler does not know that it is: what comes of it is made where it is needed, not
/// ahead of a main loop or of a branch, in registers that those lack.
__device__ inline int afresh(int number) {
  asm volatile("" : "+r"(number));
  return number;
}

}  // namespace machete::kernels
