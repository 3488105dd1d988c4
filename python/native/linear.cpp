// linear: plans, kept from call to call, and their runs; list_schedules: what could run.

#include "native/linear.h"

#include <fmt/format.h>
#include <tvm/ffi/container/array.h>
#include <tvm/ffi/container/tuple.h>
#include <tvm/ffi/extra/c_env_api.h>
#include <tvm/ffi/function.h>
#include <tvm/ffi/optional.h>
#include <tvm/ffi/string.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <shared_mutex>
#include <string>
#include <string_view>
#include <tuple>
#include <unordered_map>
#include <utility>

#include "api/memory.h"
#include "api/placed.h"
#include "machete/linear.h"
#include "machete/tokens.h"
#include "machete/version.h"
#include "native/matrix.h"
#include "native/packed.h"
#include "native/status.h"
#include "native/tensor.h"

namespace machete::python {
namespace {

using tvm::ffi::Array;
using tvm::ffi::Optional;
using tvm::ffi::String;
using tvm::ffi::Tuple;

std::string_view view(const String& string) { return {string.data(), string.size()}; }

// What all products of a function share: the weights' sizes and types, and the options.
struct Kind {
  std::int64_t n, k, group_size;
  DataType a_type, scale_type, d_type;
  WeightType w_type;
  bool overlap, batch_invariant, swiglu, fast_accumulation;
  std::string schedule;

  std::int64_t columns() const { return swiglu ? n / 2 : n; }
  bool quantised() const { return bits_of(a_type) == 8; }
};

Kind kind_of(std::int64_t n, std::int64_t k, const String& weight_type, const String& scale_type,
             std::int64_t group_size, const String& schedule, bool overlap, bool batch_invariant, bool swiglu,
             const String& activations, bool fast_accumulation, const String& out_type) {
  Kind kind;
  kind.n = n;
  kind.k = k;
  kind.group_size = group_size;
  kind.scale_type = value_of(parse_data_type(view(scale_type)));
  kind.a_type = activations.empty() ? kind.scale_type : value_of(parse_data_type(view(activations)));
  kind.d_type = out_type.empty() ? kind.scale_type : value_of(parse_data_type(view(out_type)));
  kind.w_type = value_of(parse_weight_type(view(weight_type)));
  kind.overlap = overlap;
  kind.batch_invariant = batch_invariant;
  kind.swiglu = swiglu;
  kind.fast_accumulation = fast_accumulation;
  kind.schedule = view(schedule);
  return kind;
}

Problem problem_of(const Kind& kind, std::int64_t m) {
  Problem problem;
  problem.m = m;
  problem.n = kind.n;
  problem.k = kind.k;
  problem.a_type = kind.a_type;
  problem.d_type = kind.d_type;
  problem.w_type = kind.w_type;
  problem.group_size = kind.group_size;
  problem.fast_accumulation = kind.fast_accumulation;
  problem.epilogue.token_scale = kind.quantised();
  if (kind.swiglu) problem.epilogue.activation = Activation::kSwiglu;
  return problem;
}

TokenQuantization tokens_of(const Kind& kind, const Matrix& x) {
  TokenQuantization what;
  what.m = x.rows;
  what.k = x.columns;
  what.a_type = kind.scale_type;
  what.code_type = kind.a_type;
  what.lda = x.stride;
  return what;
}

PlanOptions options_of(const Kind& kind, Device device) {
  PlanOptions options;
  options.device = device;
  options.schedule = kind.schedule;
  options.overlap = kind.overlap;
  options.batch_invariant = kind.batch_invariant;
  return options;
}

// What a plan depends on besides the kind.
struct PlanKey {
  std::int64_t m, lda, ldd;
  Device device;
  bool act_order, output_scale, bias;

  bool operator==(const PlanKey& other) const {
    return m == other.m && lda == other.lda && ldd == other.ldd && device == other.device &&
           act_order == other.act_order && output_scale == other.output_scale && bias == other.bias;
  }
};

struct PlanKeyHash {
  std::size_t operator()(const PlanKey& key) const {
    std::size_t hash = 0;
    const auto mix = [&](auto value) { hash = (hash ^ static_cast<std::size_t>(value)) * 0x9e3779b97f4a7c15u; };
    for (const std::int64_t size : {key.m, key.lda, key.ldd}) mix(size);
    mix(key.device.ordinal * 16 + (key.device.backend == Backend::kCuda ? 8 : 0) + (key.act_order ? 4 : 0) +
        (key.output_scale ? 2 : 0) + (key.bias ? 1 : 0));
    return hash ^ (hash >> 32);
  }
};

struct Planned {
  Plan plan;
  PackedHeader header;         // of the weights that it runs with
  std::int64_t ordered_bytes;  // of such a weight whose groups have an order of their own
};

}  // namespace

// By key, for all threads. A serving process meets a bounded number of shapes; one that does not starts over.
class PlanCache {
 public:
  explicit PlanCache(Kind kind) : kind_(std::move(kind)) {}

  const Kind& kind() const { return kind_; }

  std::shared_ptr<const Planned> get(const PlanKey& key) {
    {
      const std::shared_lock lock(mutex_);
      const auto found = plans_.find(key);
      if (found != plans_.end()) return found->second;
    }
    auto planned = std::make_shared<const Planned>(make(key));
    const std::unique_lock lock(mutex_);
    if (plans_.size() >= kMost) plans_.clear();
    return plans_.emplace(key, std::move(planned)).first->second;
  }

 private:
  static constexpr std::size_t kMost = 4096;

  Planned make(const PlanKey& key) const {
    Problem problem = problem_of(kind_, key.m);
    problem.lda = key.lda;
    problem.ldd = key.ldd;
    problem.act_order = key.act_order;
    problem.epilogue.output_scale = key.output_scale;
    problem.epilogue.bias = key.bias;
    Plan plan = value_of(machete::plan(problem, options_of(kind_, key.device)));
    const PackedHeader header = expected_header(kind_.n, kind_.k, name_of(kind_.w_type), name_of(kind_.scale_type),
                                                kind_.group_size, kind_.swiglu, bits_of(kind_.a_type));
    const PackedHeader ordered = act_ordered(header);
    return {std::move(plan), key.act_order ? ordered : header, bytes_of(ordered)};
  }

  const Kind kind_;
  std::shared_mutex mutex_;
  std::unordered_map<PlanKey, std::shared_ptr<const Planned>, PlanKeyHash> plans_;
};

namespace {

bool same(DLDevice a, DLDevice b) { return a.device_type == b.device_type && a.device_id == b.device_id; }

std::uint64_t size(std::int64_t count) { return static_cast<std::uint64_t>(count); }

// Raises unless the tensors fit the kind and each other.
void check_operands(const Kind& kind, const Operands& operands) {
  const auto& [x, packed, out, token_scale, output_scale, bias] = operands;
  const DataType x_type = token_scale == nullptr ? kind.scale_type : kind.a_type;
  if (type_of("x", x) != x_type) {
    raise(StatusCode::kInvalidArgument,
          fmt::format("x of {} must be {}, the type the weight was packed for; convert it, or prepack with "
                      "scale_type={}",
                      describe(x), name_of(x_type), name_of(type_of("x", x))));
  }
  if (type_of("out", out) != kind.d_type) {
    raise(StatusCode::kInvalidArgument, fmt::format("out of {} must be {}, the type of the output; allocate it so",
                                                    describe(out), name_of(kind.d_type)));
  }
  const auto check_columns = [](const char* name, const TensorView& tensor, std::int64_t columns) {
    if (tensor.ndim() == 0 || tensor.size(tensor.ndim() - 1) != columns) {
      raise(StatusCode::kInvalidArgument,
            fmt::format("{} of {} must have {} columns; reshape it", name, describe(tensor), columns));
    }
  };
  check_columns("x", x, kind.k);
  check_columns("out", out, kind.columns());
  const auto has_rows_of_x = [&x = x](const TensorView& tensor, int dimensions) {
    return tensor.ndim() == dimensions && std::equal(x.shape().begin(), x.shape().end() - 1, tensor.shape().begin());
  };
  if (!has_rows_of_x(out, x.ndim())) {
    raise(StatusCode::kInvalidArgument,
          fmt::format("out of {} must have the rows of x, {}; allocate it so", describe(out), describe(x)));
  }
  if (!same(x.device(), packed.device())) {
    const Device device = device_of(packed);
    raise(StatusCode::kInvalidArgument, fmt::format("x must lie on the weight's device, {}:{}; move it there",
                                                    name_of(device.backend), device.ordinal));
  }
  if (output_scale != nullptr && (type_of("output_scale", *output_scale) != DataType::kF32 ||
                                  output_scale->numel() != 1 || !same(output_scale->device(), x.device()))) {
    raise(StatusCode::kInvalidArgument,
          fmt::format("output_scale of {} must be one f32 on the device of x; make it so", describe(*output_scale)));
  }
  if (bias != nullptr && (type_of("bias", *bias) != kind.scale_type || bias->ndim() != 1 || bias->numel() != kind.n ||
                          !same(bias->device(), x.device()))) {
    raise(StatusCode::kInvalidArgument,
          fmt::format("bias of {} must be {} [{}] on the device of x, a number a row of the weight; make it so",
                      describe(*bias), name_of(kind.scale_type), kind.n));
  }
  if (token_scale == nullptr) return;
  if (type_of("token_scale", *token_scale) != DataType::kF32 || !has_rows_of_x(*token_scale, x.ndim() - 1) ||
      !same(token_scale->device(), x.device())) {
    raise(StatusCode::kInvalidArgument,
          fmt::format("token_scale of {} must be f32, one number a row of x, {}, on its device; see quantize_tokens",
                      describe(*token_scale), describe(x)));
  }
}

Stream stream_of(DLDevice device, const DLPackExchangeAPI* torch) {
  if (torch == nullptr) return TVMFFIEnvGetStream(device.device_type, device.device_id);
  void* stream = nullptr;
  if (torch->current_work_stream(device.device_type, device.device_id, &stream) != 0) {
    raise(StatusCode::kDevice, "torch does not tell its current stream");
  }
  return stream;
}

// What tvm-ffi allocates with, on this thread, as its own calls from Python set it.
class AllocatorScope {
 public:
  explicit AllocatorScope(DLPackManagedTensorAllocator allocator) {
    TVMFFIEnvSetDLPackManagedTensorAllocator(allocator, 0, &before_);
  }
  ~AllocatorScope() { TVMFFIEnvSetDLPackManagedTensorAllocator(before_, 0, nullptr); }
  AllocatorScope(const AllocatorScope&) = delete;
  AllocatorScope& operator=(const AllocatorScope&) = delete;

 private:
  DLPackManagedTensorAllocator before_ = nullptr;
};

// From torch, in the order of its current stream.
Tensor workspace_of(std::int64_t bytes, DLDevice device, const DLPackExchangeAPI* torch) {
  if (torch == nullptr) return Tensor::FromEnvAlloc(TVMFFIEnvTensorAlloc, {bytes}, bytes_type(), device);
  const AllocatorScope scope(torch->managed_tensor_allocator);
  return Tensor::FromEnvAlloc(TVMFFIEnvTensorAlloc, {bytes}, bytes_type(), device);
}

}  // namespace

std::int64_t columns_of(const PlanCache& plans) { return plans.kind().columns(); }

bool linear(PlanCache& plans, const Operands& operands, const DLPackExchangeAPI* torch) {
  check_operands(plans.kind(), operands);
  const auto& [x, packed, out, token_scale, output_scale, bias] = operands;
  const DLDevice where = packed.device();
  if (!same(out.device(), where)) return false;
  const std::optional<Matrix> a = matrix_of(x);
  const std::optional<Matrix> d = matrix_of(out);
  if (!d) {
    raise(StatusCode::kInvalidArgument,
          fmt::format("out of {} must have contiguous and aligned rows; allocate it so", describe(out)));
  }
  const auto in_line = [](const TensorView* tensor) { return tensor == nullptr || lies_in_line(*tensor); };
  if (!a || !in_line(token_scale) || !in_line(output_scale) || !in_line(bias)) return false;

  const bool quantises = plans.kind().quantised() && token_scale == nullptr;
  PlanKey key = {a->rows, quantises ? 0 : a->stride, d->stride,      device_of(packed),
                 false,   output_scale != nullptr,   bias != nullptr};
  const bool on_gpu = key.device.backend == Backend::kCuda;
  std::shared_ptr<const Planned> planned = plans.get(key);
  // On a GPU, whose header the host does not read, the size tells whether the groups have an order of their own.
  if (on_gpu && packed.numel() == planned->ordered_bytes) {
    key.act_order = true;
    planned = plans.get(key);
  }
  const Plan& plan = planned->plan;
  const PackedWeight weight = borrow(packed, planned->header);
  // What the plan needs, then codes and scales of tokens that are quantised here.
  const std::uint64_t codes_at = memory::padded(plan.workspace_size());
  const std::uint64_t scales_at = codes_at + (quantises ? memory::padded(size(a->rows * a->columns)) : 0);
  const auto bytes = static_cast<std::int64_t>(scales_at + (quantises ? size(a->rows) * sizeof(float) : 0));
  const Tensor workspace = bytes > 0 ? workspace_of(bytes, where, torch) : Tensor();
  auto* const base = bytes > 0 ? static_cast<std::byte*>(workspace.data_ptr()) : nullptr;
  const Stream stream = on_gpu ? stream_of(where, torch) : Stream();
  Arguments arguments = {x.data_ptr(), &weight, out.data_ptr()};
  if (token_scale != nullptr) arguments.token_scale = static_cast<const float*>(token_scale->data_ptr());
  if (output_scale != nullptr) arguments.output_scale = static_cast<const float*>(output_scale->data_ptr());
  if (bias != nullptr) arguments.bias = bias->data_ptr();
  if (quantises && a->rows > 0) {
    auto* const scales = reinterpret_cast<float*>(base + scales_at);
    check(machete::quantize_tokens(tokens_of(plans.kind(), *a), x.data_ptr(), base + codes_at, scales,
                                   {key.device, plans.kind().overlap}, stream));
    arguments.a = base + codes_at;
    arguments.token_scale = scales;
  }
  // Each tensor has said already where it lies.
  check(internal::run_placed(plan, arguments, base, plan.workspace_size(), stream));
  return true;
}

namespace {

// The plans of a kind, which are kept for good: what is said of a product in words is understood once.
void* plans_of(std::int64_t n, std::int64_t k, const String& weight_type, const String& scale_type,
               std::int64_t group_size, const String& schedule, bool overlap, bool batch_invariant, bool swiglu,
               const String& activations, bool fast_accumulation, const String& out_type) {
  return new PlanCache(kind_of(n, k, weight_type, scale_type, group_size, schedule, overlap, batch_invariant, swiglu,
                               activations, fast_accumulation, out_type));
}

// Codes have a token_scale; outputs of e4m3 may have an output_scale, and all a bias.
bool linear_by(void* plans, const TensorView& x, const TensorView& packed, const TensorView& out,
               const Optional<TensorView>& token_scale, const Optional<TensorView>& output_scale,
               const Optional<TensorView>& bias) {
  const auto pointer = [](const Optional<TensorView>& tensor) { return tensor.has_value() ? &*tensor : nullptr; };
  return linear(*static_cast<PlanCache*>(plans),
                {x, packed, out, pointer(token_scale), pointer(output_scale), pointer(bias)});
}

// name, estimate in us, workspace in bytes, reason
using Choice = Tuple<String, double, std::int64_t, String>;

Array<Choice> list_schedules(std::int64_t m, DLDevice where, std::int64_t n, std::int64_t k, const String& weight_type,
                             const String& scale_type, std::int64_t group_size, bool overlap, bool batch_invariant,
                             bool swiglu, const String& activations, bool fast_accumulation) {
  const Kind kind = kind_of(n, k, weight_type, scale_type, group_size, "", overlap, batch_invariant, swiglu,
                            activations, fast_accumulation, "");
  const Device device = where.device_type == kDLCUDA ? Device::cuda(where.device_id) : Device::cpu();
  Array<Choice> choices;
  for (const ScheduleChoice& choice :
       value_of(machete::list_schedules(problem_of(kind, m), options_of(kind, device)))) {
    choices.push_back(Choice(String(choice.name), choice.estimate_us, static_cast<std::int64_t>(choice.workspace_size),
                             String(choice.reason)));
  }
  return choices;
}

String version() { return kVersion; }

}  // namespace

TVM_FFI_DLL_EXPORT_TYPED_FUNC(plans_of, plans_of);
TVM_FFI_DLL_EXPORT_TYPED_FUNC(linear, linear_by);
TVM_FFI_DLL_EXPORT_TYPED_FUNC(list_schedules, list_schedules);
TVM_FFI_DLL_EXPORT_TYPED_FUNC(version, version);

}  // namespace machete::python
