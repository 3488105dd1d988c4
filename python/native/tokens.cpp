// quantize_tokens: activations to 8 bits; activations: those of 8 bits that each weight type meets.

#include "machete/tokens.h"

#include <fmt/format.h>
#include <tvm/ffi/container/array.h>
#include <tvm/ffi/container/tuple.h>
#include <tvm/ffi/extra/c_env_api.h>
#include <tvm/ffi/function.h>
#include <tvm/ffi/string.h>

#include <optional>
#include <string>

#include "api/validate.h"
#include "native/matrix.h"
#include "native/status.h"
#include "native/tensor.h"

namespace machete::python {
namespace {

using tvm::ffi::Array;
using tvm::ffi::String;
using tvm::ffi::Tuple;

// False: x has to be copied before; nothing was done. On the current stream of torch.
bool quantize_tokens(const TensorView& x /* [..., K] */, const TensorView& codes /* [..., K] */,
                     const TensorView& token_scale /* [...] */, bool overlap) {
  const std::optional<Matrix> a = matrix_of(x);
  if (!a) return false;
  if (codes.numel() != a->rows * a->columns || !lies_in_line(codes) || token_scale.numel() != a->rows ||
      !lies_in_line(token_scale) || type_of("token_scale", token_scale) != DataType::kF32) {
    raise(StatusCode::kInvalidArgument,
          fmt::format("codes of {} and token_scale of {} must be those of x, {}, contiguous, the latter f32",
                      describe(codes), describe(token_scale), describe(x)));
  }
  TokenQuantization what;
  what.m = a->rows;
  what.k = a->columns;
  what.a_type = type_of("x", x);
  what.code_type = type_of("codes", codes);
  what.lda = a->stride;
  TokenOptions options;
  options.device = device_of(x);
  options.overlap = overlap;
  const DLDevice where = x.device();
  const bool on_gpu = where.device_type == kDLCUDA;
  const Stream stream = on_gpu ? TVMFFIEnvGetStream(where.device_type, where.device_id) : Stream();
  check(machete::quantize_tokens(what, x.data_ptr(), codes.data_ptr(), static_cast<float*>(token_scale.data_ptr()),
                                 options, stream));
  return true;
}

// weight type, activations
using Pair = Tuple<String, String>;

Array<Pair> activations() {
  const auto name = [](auto type) { return String{std::string(name_of(type))}; };
  Array<Pair> pairs;
  for (const WeightType w_type : weight_types()) {
    for (const DataType a_type : {DataType::kS8, DataType::kE4m3}) {
      if (validate::activation_type(a_type, w_type).ok()) pairs.push_back(Pair(name(w_type), name(a_type)));
    }
  }
  return pairs;
}

}  // namespace

TVM_FFI_DLL_EXPORT_TYPED_FUNC(quantize_tokens, quantize_tokens);
TVM_FFI_DLL_EXPORT_TYPED_FUNC(activations, activations);

}  // namespace machete::python
