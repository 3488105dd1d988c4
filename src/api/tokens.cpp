#include "machete/tokens.h"

#include <fmt/format.h>

#include <algorithm>

#include "api/memory.h"
#include "api/validate.h"
#include "reference/tokens.h"

#if MACHETE_HAS_CUDA
#include "kernels/tokens/quantize.h"
#endif

namespace machete {
namespace {

Status check_row(const char* name, std::int64_t stride, std::int64_t k) {
  if (stride >= k && stride <= validate::kMaxSize) return {};
  return {StatusCode::kInvalidArgument,
          fmt::format("{}={} must be at least K={} and at most 2^30; rows may not overlap", name, stride, k)};
}

Status check(const TokenQuantization& what, const TokenOptions& options) {
  for (const Status& status :
       {validate::size("M", what.m, 0), validate::size("K", what.k, 1), validate::compute_type("a_type", what.a_type),
        check_row("lda", what.lda, what.k), check_row("ldc", what.ldc, what.k)}) {
    if (!status.ok()) return status;
  }
  if (what.code_type != DataType::kS8 && what.code_type != DataType::kE4m3) {
    return {StatusCode::kUnsupported,
            fmt::format("code_type={} is not served; use s8 or e4m3", name_of(what.code_type))};
  }
  return memory::check_device(options.device);
}

Status check_tensor(const validate::Extent& extent, std::size_t element, Device device) {
  const std::size_t alignment = device.backend == Backend::kCuda ? 16 : element;
  if (Status status = validate::pointer(extent.name, extent.begin, alignment); !status.ok()) return status;
  const auto where = memory::device_of(extent.begin);
  if (!where.ok()) return where.status();
  if (*where == device) return {};
  return {StatusCode::kInvalidArgument,
          fmt::format("{} lies on {}:{}, not on {}:{}; copy it there", extent.name, name_of(where->backend),
                      where->ordinal, name_of(device.backend), device.ordinal)};
}

}  // namespace

Status quantize_tokens(const TokenQuantization& given, const void* a, void* codes, float* token_scale,
                       const TokenOptions& options, Stream stream) {
  TokenQuantization what = given;
  if (what.lda == 0) what.lda = what.k;
  if (what.ldc == 0) what.ldc = what.k;
  if (Status status = check(what, options); !status.ok()) return status;
  if (what.m == 0) return {};
  const Device device = options.device;
  const validate::Extent input = {"a", a, validate::span(what.m, what.k, what.lda, bytes_of(what.a_type))};
  const validate::Extent output = {"codes", codes, validate::span(what.m, what.k, what.ldc, 1)};
  const validate::Extent scales = {"token_scale", token_scale, validate::span(1, what.m, 0, 4)};
  for (const Status& status : {check_tensor(input, bytes_of(what.a_type), device), check_tensor(output, 1, device),
                               check_tensor(scales, 4, device), validate::apart(input, output),
                               validate::apart(input, scales), validate::apart(output, scales)}) {
    if (!status.ok()) return status;
  }
#if MACHETE_HAS_CUDA
  if (device.backend == Backend::kCuda) {
    const memory::CurrentDevice current(device);
    return memory::cuda_status(tokens::quantize(what, a, codes, token_scale, options.overlap, stream.native),
                               "quantising tokens");
  }
#else
  static_cast<void>(stream);
#endif
  reference::quantize_tokens(what, a, codes, token_scale);
  return {};
}

}  // namespace machete
