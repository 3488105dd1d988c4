#pragma once

#include "kernels/epilogue/store.cuh"
#include "kernels/kernel.h"

namespace machete::kernels {

/// Of kernels whose operand holds the weights' codes in multiples of `code_unit`.
template <class Element>
epilogue::Store<Element> store_of(const Launch& launch, float code_unit) {
  return {launch.d,
          launch.ldd,
          static_cast<int>(launch.m),
          static_cast<int>(launch.shape.n),
          launch.tensor_scale / code_unit,
          launch.d_type,
          launch.epilogue};
}

}  // namespace machete::kernels
