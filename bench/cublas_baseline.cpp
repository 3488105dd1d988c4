#include "bench/cublas_baseline.h"

#include <cublas_v2.h>
#include <dlfcn.h>

#include <string>
#include <utility>

namespace machete::bench {
namespace {

// cublasGemmEx of the library; the header overloads the name.
using GemmEx = cublasStatus_t (*)(cublasHandle_t, cublasOperation_t, cublasOperation_t, int, int, int,
                                  const void* alpha, const void* a, cudaDataType, int, const void* b, cudaDataType, int,
                                  const void* beta, void* c, cudaDataType, int, cublasComputeType_t, cublasGemmAlgo_t);

// The functions in use, found at run time.
struct Api {
  decltype(&cublasCreate_v2) create = nullptr;
  decltype(&cublasDestroy_v2) destroy = nullptr;
  decltype(&cublasSetStream_v2) set_stream = nullptr;
  decltype(&cublasSetWorkspace_v2) set_workspace = nullptr;
  GemmEx gemm = nullptr;
  decltype(&cublasGetStatusString) describe = nullptr;

  Status check(cublasStatus_t status, const char* attempt) const {
    if (status == CUBLAS_STATUS_SUCCESS) return {};
    return {StatusCode::kDevice, std::string(attempt) + ": " + describe(status)};
  }
};

template <class Function>
bool find(void* library, const char* name, Function& function) {
  function = reinterpret_cast<Function>(dlsym(library, name));
  return function != nullptr;
}

// The library stays loaded: its code may run until the process ends.
Result<Api> load() {
  const std::string name = "libcublas.so." + std::to_string(CUBLAS_VER_MAJOR);
  void* library = nullptr;
  for (const std::string& folder : {std::string(), std::string("/usr/local/cuda/lib64/")}) {
    if (library == nullptr) library = dlopen((folder + name).c_str(), RTLD_NOW | RTLD_LOCAL);
  }
  if (library == nullptr) {
    return Status(StatusCode::kUnsupported,
                  "cannot load " + name + "; put its folder into LD_LIBRARY_PATH, or benchmark without cuBLAS");
  }
  Api api;
  const bool complete = find(library, "cublasCreate_v2", api.create) &&
                        find(library, "cublasDestroy_v2", api.destroy) &&
                        find(library, "cublasSetStream_v2", api.set_stream) &&
                        find(library, "cublasSetWorkspace_v2", api.set_workspace) &&
                        find(library, "cublasGemmEx", api.gemm) && find(library, "cublasGetStatusString", api.describe);
  if (!complete)
    return Status(StatusCode::kUnsupported, name + " lacks a function that bench needs; benchmark without cuBLAS");
  return api;
}

}  // namespace

struct CublasBaseline::State {
  Api api;
  cublasHandle_t handle = nullptr;

  State() = default;
  State(const State&) = delete;
  State& operator=(const State&) = delete;
  ~State() {
    if (handle != nullptr) api.destroy(handle);
  }
};

Result<CublasBaseline> CublasBaseline::create(void* workspace, cudaStream_t stream) {
  Result<Api> api = load();
  if (!api.ok()) return api.status();
  auto state = std::make_shared<State>();
  state->api = *api;
  Status status = api->check(api->create(&state->handle), "cublasCreate");
  // In this order: setting the stream takes the workspace away.
  if (status.ok()) status = api->check(api->set_stream(state->handle, stream), "cublasSetStream");
  if (status.ok()) {
    status = api->check(api->set_workspace(state->handle, workspace, kWorkspaceBytes), "cublasSetWorkspace");
  }
  if (!status.ok()) return status;
  CublasBaseline baseline;
  baseline.state_ = std::move(state);
  return baseline;
}

Status CublasBaseline::run(DataType type, std::int64_t m, std::int64_t n, std::int64_t k, const void* a, const void* w,
                           void* d) const {
  const Api& api = state_->api;
  const cudaDataType_t native = type == DataType::kF16 ? CUDA_R_16F : CUDA_R_16BF;
  const int rows = static_cast<int>(m);
  const int columns = static_cast<int>(n);
  const int depth = static_cast<int>(k);
  const float one = 1;
  const float zero = 0;
  // cuBLAS counts column by column, hence Dᵀ[N, M] = W[N, K] · Aᵀ[K, M], W read across.
  return api.check(api.gemm(state_->handle, CUBLAS_OP_T, CUBLAS_OP_N, columns, rows, depth, &one, w, native, depth, a,
                            native, depth, &zero, d, native, columns, CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT),
                   "cublasGemmEx");
}

}  // namespace machete::bench
