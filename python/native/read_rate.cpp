// read_rate: how fast a GPU reads and does nothing else, as the benchmark of C++ measures it.

#include <tvm/ffi/extra/c_env_api.h>
#include <tvm/ffi/function.h>

#include "native/status.h"
#include "native/tensor.h"

#if defined(MACHETE_HAS_CUDA)
#include "bench/read_stream.h"
#endif

namespace machete::python {
namespace {

// TB/s; the memory [bytes] lies on the current device and is overwritten. Not on its default stream: graphs are
// recorded.
double read_rate(const TensorView& memory) {
  check_contiguous("memory", memory, 1);
#if defined(MACHETE_HAS_CUDA)
  const DLDevice where = memory.device();
  if (where.device_type == kDLCUDA) {
    void* stream = TVMFFIEnvGetStream(where.device_type, where.device_id);
    return value_of(bench::measure_read_stream(memory.data_ptr(), static_cast<std::size_t>(memory.numel()),
                                               static_cast<cudaStream_t>(stream)));
  }
#endif
  raise(StatusCode::kUnsupported,
        "the rate of reading is that of a GPU; pass memory that lies on one, to a build with CUDA");
}

}  // namespace

TVM_FFI_DLL_EXPORT_TYPED_FUNC(read_rate, read_rate);

}  // namespace machete::python
