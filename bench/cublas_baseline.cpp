#include "bench/cublas_baseline.h"

#include <cublasLt.h>
#include <cublas_v2.h>
#include <dlfcn.h>

#include <memory>
#include <string>
#include <type_traits>
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
  // Of cuBLASLt.
  decltype(&cublasLtMatmulDescCreate) create_operation = nullptr;
  decltype(&cublasLtMatmulDescDestroy) destroy_operation = nullptr;
  decltype(&cublasLtMatmulDescSetAttribute) set_operation = nullptr;
  decltype(&cublasLtMatrixLayoutCreate) create_layout = nullptr;
  decltype(&cublasLtMatrixLayoutDestroy) destroy_layout = nullptr;
  decltype(&cublasLtMatmulPreferenceCreate) create_preference = nullptr;
  decltype(&cublasLtMatmulPreferenceDestroy) destroy_preference = nullptr;
  decltype(&cublasLtMatmulPreferenceSetAttribute) set_preference = nullptr;
  decltype(&cublasLtMatmulAlgoGetHeuristic) choose = nullptr;
  decltype(&cublasLtMatmul) matmul = nullptr;

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
Result<void*> open(const std::string& name) {
  for (const std::string& folder : {std::string(), std::string("/usr/local/cuda/lib64/")}) {
    if (void* library = dlopen((folder + name).c_str(), RTLD_NOW | RTLD_LOCAL); library != nullptr) return library;
  }
  return Status(StatusCode::kUnsupported,
                "cannot load " + name + "; put its folder into LD_LIBRARY_PATH, or benchmark without cuBLAS");
}

Result<Api> load() {
  const std::string version = std::to_string(CUBLAS_VER_MAJOR);
  const Result<void*> blas = open("libcublas.so." + version);
  if (!blas.ok()) return blas.status();
  const Result<void*> lt = open("libcublasLt.so." + version);
  if (!lt.ok()) return lt.status();
  Api api;
  const bool complete =
      find(*blas, "cublasCreate_v2", api.create) && find(*blas, "cublasDestroy_v2", api.destroy) &&
      find(*blas, "cublasSetStream_v2", api.set_stream) && find(*blas, "cublasSetWorkspace_v2", api.set_workspace) &&
      find(*blas, "cublasGemmEx", api.gemm) && find(*blas, "cublasGetStatusString", api.describe) &&
      find(*lt, "cublasLtMatmulDescCreate", api.create_operation) &&
      find(*lt, "cublasLtMatmulDescDestroy", api.destroy_operation) &&
      find(*lt, "cublasLtMatmulDescSetAttribute", api.set_operation) &&
      find(*lt, "cublasLtMatrixLayoutCreate", api.create_layout) &&
      find(*lt, "cublasLtMatrixLayoutDestroy", api.destroy_layout) &&
      find(*lt, "cublasLtMatmulPreferenceCreate", api.create_preference) &&
      find(*lt, "cublasLtMatmulPreferenceDestroy", api.destroy_preference) &&
      find(*lt, "cublasLtMatmulPreferenceSetAttribute", api.set_preference) &&
      find(*lt, "cublasLtMatmulAlgoGetHeuristic", api.choose) && find(*lt, "cublasLtMatmul", api.matmul);
  if (!complete) {
    return Status(StatusCode::kUnsupported, "cuBLAS " + version + " lacks a function; benchmark without cuBLAS");
  }
  return api;
}

// One of cuBLASLt's objects, which goes with its scope.
template <class Object, class Destroy>
std::unique_ptr<std::remove_pointer_t<Object>, Destroy> owned(Object object, Destroy destroy) {
  return {object, destroy};
}

}  // namespace

struct CublasBaseline::State {
  Api api;
  cublasHandle_t handle = nullptr;  // of cuBLASLt too
  void* workspace = nullptr;
  cudaStream_t stream = nullptr;

  Status run_bytes(DataType type, int rows, int columns, int depth, const void* a, const void* w, void* d) const;

  State() = default;
  State(const State&) = delete;
  State& operator=(const State&) = delete;
  ~State() {
    if (handle != nullptr) api.destroy(handle);
  }
};

// The first of the algorithms that cuBLASLt proposes, as PyTorch takes it.
Status CublasBaseline::State::run_bytes(DataType type, int rows, int columns, int depth, const void* a, const void* w,
                                        void* d) const {
  const bool exact = type == DataType::kS8;
  const cudaDataType_t native = exact ? CUDA_R_8I : CUDA_R_8F_E4M3;
  const cudaDataType_t result = exact ? CUDA_R_32I : CUDA_R_16BF;
  Status status;
  const auto attempt = [&](cublasStatus_t code, const char* what) {
    if (status.ok()) status = api.check(code, what);
    return status.ok();
  };

  cublasLtMatmulDesc_t operation = nullptr;
  attempt(api.create_operation(&operation, exact ? CUBLAS_COMPUTE_32I : CUBLAS_COMPUTE_32F,
                               exact ? CUDA_R_32I : CUDA_R_32F),
          "cublasLtMatmulDescCreate");
  const auto own_operation = owned(operation, api.destroy_operation);
  const auto layout = [&](cudaDataType_t of, int height, int width) {
    cublasLtMatrixLayout_t made = nullptr;
    attempt(api.create_layout(&made, of, static_cast<std::uint64_t>(height), static_cast<std::uint64_t>(width), height),
            "cublasLtMatrixLayoutCreate");
    return owned(made, api.destroy_layout);
  };
  // As for 16 bits: column by column, hence Dᵀ = W · Aᵀ.
  const auto weights = layout(native, depth, columns);
  const auto tokens = layout(native, depth, rows);
  const auto output = layout(result, columns, rows);
  cublasLtMatmulPreference_t preference = nullptr;
  attempt(api.create_preference(&preference), "cublasLtMatmulPreferenceCreate");
  const auto own_preference = owned(preference, api.destroy_preference);
  if (!status.ok()) return status;

  const cublasOperation_t transposed = CUBLAS_OP_T;
  attempt(api.set_operation(operation, CUBLASLT_MATMUL_DESC_TRANSA, &transposed, sizeof(transposed)), "transpose");
  const std::int8_t fast = 1;  // sums stay in the tensor cores, as serving has it
  if (!exact) attempt(api.set_operation(operation, CUBLASLT_MATMUL_DESC_FAST_ACCUM, &fast, sizeof(fast)), "fast sums");
  const std::size_t workspace_bytes = kWorkspaceBytes;
  attempt(api.set_preference(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace_bytes,
                             sizeof(workspace_bytes)),
          "workspace");
  auto* const lt = reinterpret_cast<cublasLtHandle_t>(handle);
  cublasLtMatmulHeuristicResult_t chosen = {};
  int found = 0;
  attempt(api.choose(lt, operation, weights.get(), tokens.get(), output.get(), output.get(), preference, 1, &chosen,
                     &found),
          "cublasLtMatmulAlgoGetHeuristic");
  const std::int32_t integers[2] = {1, 0};
  const float floats[2] = {1, 0};
  const void* one = exact ? static_cast<const void*>(&integers[0]) : &floats[0];
  const void* zero = exact ? static_cast<const void*>(&integers[1]) : &floats[1];
  if (status.ok()) {
    attempt(api.matmul(lt, operation, one, w, weights.get(), a, tokens.get(), zero, d, output.get(), d, output.get(),
                       &chosen.algo, workspace, workspace_bytes, stream),
            "cublasLtMatmul");
  }
  return status;
}

Result<CublasBaseline> CublasBaseline::create(void* workspace, cudaStream_t stream) {
  Result<Api> api = load();
  if (!api.ok()) return api.status();
  auto state = std::make_shared<State>();
  state->api = *api;
  state->workspace = workspace;
  state->stream = stream;
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
  if (bits_of(type) == 8) {
    return state_->run_bytes(type, static_cast<int>(m), static_cast<int>(n), static_cast<int>(k), a, w, d);
  }
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
