#pragma once

#include "kernels/epilogue/store.cuh"
#include "kernels/kernel.h"

namespace machete::kernels {

/// Of kernels whose operand holds the weights' codes in multiples of `code_unit`.
template <class Element>
epilogue::Store<Element> store_of(const Launch& launch, float code_unit) {
  const bool swiglu = launch.epilogue.activation == Activation::kSwiglu;
  const auto n = static_cast<int>(launch.shape.n);
  epilogue::Store<Element> store = {};
  store.d = launch.d;
  store.ldd = launch.ldd;
  store.m = static_cast<int>(launch.m);
  store.n = n;
  store.columns = swiglu ? n / 2 : n;
  store.factor = launch.tensor_scale / code_unit;
  store.d_type = launch.d_type;
  store.aligned = launch.ldd % 8 == 0 && (launch.epilogue.residual == nullptr || launch.epilogue.ldc % 8 == 0) &&
                  (!swiglu || store.columns % 8 == 0);
  store.operands = launch.epilogue;
  return store;
}

}  // namespace machete::kernels
