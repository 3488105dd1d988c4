#pragma once

#include "kernels/epilogue/store.cuh"
#include "kernels/kernel.h"

namespace machete::kernels {

template <class Element>
epilogue::Store<Element> store_of(const Launch& launch) {
  return {launch.d,
          launch.ldd,
          static_cast<int>(launch.m),
          static_cast<int>(launch.shape.n),
          launch.tensor_scale,
          launch.d_type == DataType::kF32,
          launch.epilogue};
}

}  // namespace machete::kernels
