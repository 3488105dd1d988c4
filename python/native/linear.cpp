// linear: plans, kept from call to call, and their runs; list_schedules: what could run.

#include "machete/linear.h"

#include <fmt/format.h>
#include <tvm/ffi/container/array.h>
#include <tvm/ffi/container/tuple.h>
#include <tvm/ffi/extra/c_env_api.h>
#include <tvm/ffi/function.h>
#include <tvm/ffi/string.h>

#include <cstdint>
#include <functional>
#include <mutex>
#include <optional>
#include <shared_mutex>
#include <string>
#include <string_view>
#include <tuple>
#include <unordered_map>
#include <utility>

#include "api/placed.h"
#include "machete/version.h"
#include "native/packed.h"
#include "native/status.h"
#include "native/tensor.h"

namespace machete::python {
namespace {

using tvm::ffi::Array;
using tvm::ffi::String;
using tvm::ffi::Tuple;

std::string_view view(const String& string) { return {string.data(), string.size()}; }

// What a plan depends on, besides the options' schedule.
struct PlanKey {
  std::int64_t m, n, k, lda, ldd, group_size;
  DataType a_type;
  WeightType w_type;
  Device device;
  bool overlap, batch_invariant, swiglu, act_order;
  std::string schedule;

  auto fields() const {
    return std::tie(m, n, k, lda, ldd, group_size, a_type, w_type, device.backend, device.ordinal, overlap,
                    batch_invariant, swiglu, act_order, schedule);
  }
  bool operator==(const PlanKey& other) const { return fields() == other.fields(); }
};

struct PlanKeyHash {
  std::size_t operator()(const PlanKey& key) const {
    std::size_t hash = std::hash<std::string>()(key.schedule);
    const auto mix = [&](auto value) { hash = (hash ^ static_cast<std::size_t>(value)) * 0x9e3779b97f4a7c15u; };
    for (const std::int64_t size : {key.m, key.n, key.k, key.lda, key.ldd, key.group_size}) mix(size);
    mix(key.a_type);
    mix(key.w_type);
    mix(key.device.ordinal * 32 + (key.act_order ? 16 : 0) + (key.swiglu ? 8 : 0) +
        (key.device.backend == Backend::kCuda ? 4 : 0) + (key.overlap ? 2 : 0) + (key.batch_invariant ? 1 : 0));
    return hash ^ (hash >> 32);
  }
};

struct Planned {
  Plan plan;
  PackedHeader header;  // of the weights that it runs with
};

// Plans by key, for all threads. A serving process meets a bounded number of shapes; one that does not starts over.
class PlanCache {
 public:
  Planned get(const PlanKey& key) {
    {
      const std::shared_lock lock(mutex_);
      const auto found = plans_.find(key);
      if (found != plans_.end()) return found->second;
    }
    Planned planned{make(key), header_of(key)};
    const std::unique_lock lock(mutex_);
    if (plans_.size() >= kMost) plans_.clear();
    return plans_.emplace(key, std::move(planned)).first->second;
  }

 private:
  static constexpr std::size_t kMost = 16384;

  static Plan make(const PlanKey& key) {
    Problem problem;
    problem.m = key.m;
    problem.n = key.n;
    problem.k = key.k;
    problem.a_type = problem.d_type = key.a_type;
    problem.w_type = key.w_type;
    problem.group_size = key.group_size;
    problem.lda = key.lda;
    problem.ldd = key.ldd;
    problem.act_order = key.act_order;
    if (key.swiglu) problem.epilogue.activation = Activation::kSwiglu;
    PlanOptions options;
    options.device = key.device;
    options.schedule = key.schedule;
    options.overlap = key.overlap;
    options.batch_invariant = key.batch_invariant;
    return value_of(machete::plan(problem, options));
  }

  static PackedHeader header_of(const PlanKey& key) {
    const PackedHeader header =
        expected_header(key.n, key.k, name_of(key.w_type), name_of(key.a_type), key.group_size, key.swiglu);
    return key.act_order ? act_ordered(header) : header;
  }

  std::shared_mutex mutex_;
  std::unordered_map<PlanKey, Planned, PlanKeyHash> plans_;
};

PlanCache& plan_cache() {
  static auto* const cache = new PlanCache;  // outlives the threads that may still use it when the process ends
  return *cache;
}

// A tensor [..., columns] as a matrix.
struct Matrix {
  std::int64_t rows, columns;
  std::int64_t stride;  // elements between rows; 0, the default, where there is but one or none
};

// Where it is one that the library takes as it lies: its rows are contiguous, evenly apart, and on a GPU aligned.
std::optional<Matrix> matrix_of(const TensorView& tensor) {
  const int last = tensor.ndim() - 1;
  if (last < 0) return std::nullopt;
  constexpr std::uintptr_t kCudaAlignment = 16;
  if (tensor.device().device_type == kDLCUDA &&
      reinterpret_cast<std::uintptr_t>(tensor.data_ptr()) % kCudaAlignment != 0) {
    return std::nullopt;
  }
  Matrix matrix = {1, tensor.size(last), 0};
  bool even = matrix.columns <= 1 || tensor.stride(last) == 1;
  for (int i = last - 1; i >= 0; --i) {
    if (tensor.size(i) == 1) continue;
    if (matrix.rows == 1) matrix.stride = tensor.stride(i);
    even = even && tensor.stride(i) == matrix.stride * matrix.rows;
    matrix.rows *= tensor.size(i);
  }
  if (matrix.rows == 0) return Matrix{0, matrix.columns, 0};
  if (!even || (matrix.rows > 1 && matrix.stride < matrix.columns)) return std::nullopt;
  return matrix;
}

// One product: `key` has what does not depend on the tensors. False: x has to be copied before, nothing was done.
bool linear(PlanKey key, const TensorView& x /* [..., K] */, const TensorView& packed,
            const TensorView& out /* [..., N], with swiglu [..., N / 2] */) {
  const std::optional<Matrix> a = matrix_of(x);
  const std::optional<Matrix> d = matrix_of(out);
  if (!d) {
    raise(StatusCode::kInvalidArgument,
          fmt::format("out of {} must have contiguous and aligned rows; allocate it so", describe(out)));
  }
  if (!a) return false;
  key.lda = a->stride;
  key.ldd = d->stride;
  key.m = a->rows;
  key.k = a->columns;
  key.n = key.swiglu ? d->columns * 2 : d->columns;
  key.device = device_of(packed);

  for (const auto& [name, tensor] : {std::pair{"x", &x}, std::pair{"out", &out}}) {
    if (type_of(name, *tensor) != key.a_type) {
      raise(StatusCode::kInvalidArgument,
            fmt::format("{} of {} must be {}, the type the weight was packed for; convert it, or prepack with "
                        "scale_type={}",
                        name, describe(*tensor), name_of(key.a_type), name_of(type_of(name, *tensor))));
    }
    if (device_of(*tensor) != key.device) {
      raise(StatusCode::kInvalidArgument, fmt::format("{} must lie on the weight's device, {}:{}; move it there", name,
                                                      name_of(key.device.backend), key.device.ordinal));
    }
  }
  if (d->rows != key.m) {
    raise(StatusCode::kInvalidArgument,
          fmt::format("out of {} must have the {} rows of x; allocate it so", describe(out), key.m));
  }

  Planned planned = plan_cache().get(key);
  // On a GPU, whose header the host does not read, the size tells whether the groups have an order of their own.
  if (key.device.backend == Backend::kCuda && packed.numel() == bytes_of(act_ordered(planned.header))) {
    key.act_order = true;
    planned = plan_cache().get(key);
  }
  const PackedWeight weight = borrow(packed, planned.header);
  const DLDevice where = packed.device();
  Tensor workspace;
  const auto bytes = static_cast<std::int64_t>(planned.plan.workspace_size());
  if (bytes > 0) {  // from torch, in the order of its current stream
    workspace = Tensor::FromEnvAlloc(TVMFFIEnvTensorAlloc, {bytes}, bytes_type(), where);
  }
  Stream stream;
  if (key.device.backend == Backend::kCuda) stream = TVMFFIEnvGetStream(where.device_type, where.device_id);
  // Each tensor has said already where it lies.
  check(internal::run_placed(planned.plan, {x.data_ptr(), &weight, out.data_ptr()},
                             bytes > 0 ? workspace.data_ptr() : nullptr, planned.plan.workspace_size(), stream));
  return true;
}

// The products of weights of one kind under one set of options, as a function (x, packed, out), which is `linear`: what
// is said of them in words is understood once.
tvm::ffi::TypedFunction<bool(TensorView, TensorView, TensorView)> linear_of(const String& weight_type,
                                                                            const String& scale_type,
                                                                            std::int64_t group_size,
                                                                            const String& schedule, bool overlap,
                                                                            bool batch_invariant, bool swiglu) {
  PlanKey key{};
  key.group_size = group_size;
  key.a_type = value_of(parse_data_type(view(scale_type)));
  key.w_type = value_of(parse_weight_type(view(weight_type)));
  key.overlap = overlap;
  key.batch_invariant = batch_invariant;
  key.swiglu = swiglu;
  key.schedule = view(schedule);
  return [key](TensorView x, TensorView packed, TensorView out) { return linear(key, x, packed, out); };
}

// name, estimate in us, workspace in bytes, reason
using Choice = Tuple<String, double, std::int64_t, String>;

Array<Choice> list_schedules(std::int64_t m, std::int64_t n, std::int64_t k, const String& weight_type,
                             const String& a_type, std::int64_t group_size, DLDevice device, bool overlap,
                             bool batch_invariant, bool swiglu) {
  Problem problem;
  problem.m = m;
  problem.n = n;
  problem.k = k;
  problem.a_type = problem.d_type = value_of(parse_data_type(view(a_type)));
  problem.w_type = value_of(parse_weight_type(view(weight_type)));
  problem.group_size = group_size;
  if (swiglu) problem.epilogue.activation = Activation::kSwiglu;
  PlanOptions options;
  options.device = device.device_type == kDLCUDA ? Device::cuda(device.device_id) : Device::cpu();
  options.overlap = overlap;
  options.batch_invariant = batch_invariant;
  Array<Choice> choices;
  for (const ScheduleChoice& choice : value_of(machete::list_schedules(problem, options))) {
    choices.push_back(Choice(String(choice.name), choice.estimate_us, static_cast<std::int64_t>(choice.workspace_size),
                             String(choice.reason)));
  }
  return choices;
}

String version() { return kVersion; }

}  // namespace

TVM_FFI_DLL_EXPORT_TYPED_FUNC(linear_of, linear_of);
TVM_FFI_DLL_EXPORT_TYPED_FUNC(list_schedules, list_schedules);
TVM_FFI_DLL_EXPORT_TYPED_FUNC(version, version);

}  // namespace machete::python
