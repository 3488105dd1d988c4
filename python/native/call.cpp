// The short way of a product: from Python's objects to the library in one function of C, for calls that nobody watches.

#include <cstddef>
#include <cstdint>
#include <exception>

#include "native/interpreter.h"
#include "native/linear.h"

namespace machete::python {
namespace {

constexpr const char* kName = "machete.call";  // of capsules

// A reference to an object; null where Python has raised.
class Ref {
 public:
  explicit Ref(PyObject* object) : object_(object) {}
  ~Ref() {
    if (object_ != nullptr) Py_DecRef(object_);
  }
  Ref(const Ref&) = delete;
  Ref& operator=(const Ref&) = delete;

  PyObject* get() const { return object_; }
  PyObject* release() {
    PyObject* object = object_;
    object_ = nullptr;
    return object;
  }

 private:
  PyObject* object_;
};

PyObject* none() {
  Py_IncRef(&_Py_NoneStruct);
  return &_Py_NoneStruct;
}

// What is asked of torch; borrowed from a tuple that is kept. The order is that of product.py.
struct Torch {
  PyObject* tensor;     // the classes
  PyObject* parameter;  // of a bias
  PyObject* is_grad_enabled;
  PyObject* modes[3];    // functions; each is true where calls are watched
  PyObject* forward_ad;  // modules
  PyObject* profiler;
  PyObject* empty_strided[2];  // on the CPU, on the current GPU
  const DLPackExchangeAPI* tensors;
};

struct Names {
  PyObject* requires_grad = PyUnicode_InternFromString("requires_grad");
  PyObject* is_neg = PyUnicode_InternFromString("is_neg");
  PyObject* current_level = PyUnicode_InternFromString("_current_level");
  PyObject* is_profiler_enabled = PyUnicode_InternFromString("_is_profiler_enabled");
};

// A function of Python: the products of a kind.
struct Call {
  PlanCache* plans;
  PyObject* dtype;  // of torch
  Torch torch;
  Names names;
};

// What is passed: x, packed and perhaps out, or None, and a bias.
struct Given {
  PyObject* x;
  PyObject* packed;
  PyObject* out;   // or null
  PyObject* bias;  // or null
};

// 1, 0, or -1 where Python has raised.
int is_true(const Ref& object) { return object.get() == nullptr ? -1 : PyObject_IsTrue(object.get()); }

bool is_plain(const Given& given, const Torch& torch) {
  const auto class_of = [](PyObject* object) { return Ref(PyObject_Type(object)).get(); };
  const auto is_tensor = [&](PyObject* object) { return object == nullptr || class_of(object) == torch.tensor; };
  return is_tensor(given.x) && is_tensor(given.packed) && is_tensor(given.out) &&
         (is_tensor(given.bias) || class_of(given.bias) == torch.parameter);
}

// Whether a gradient is asked of it.
int records(const Call& call, PyObject* object) {
  if (object == nullptr) return 0;
  const int yes = is_true(Ref(PyObject_GetAttr(object, call.names.requires_grad)));
  return yes <= 0 ? yes : is_true(Ref(PyObject_CallNoArgs(call.torch.is_grad_enabled)));
}

// product.is_unwatched, but for what the tensors are themselves and whether torch compiles.
int is_watched(const Call& call, const Given& given) {
  const Torch& torch = call.torch;
  for (PyObject* object : {given.x, given.bias}) {
    if (const int yes = records(call, object); yes != 0) return yes;
  }
  for (PyObject* mode : torch.modes) {
    if (const int yes = is_true(Ref(PyObject_CallNoArgs(mode))); yes != 0) return yes;
  }
  if (const int yes = is_true(Ref(PyObject_GetAttr(torch.profiler, call.names.is_profiler_enabled))); yes != 0) {
    return yes;
  }
  const Ref level(PyObject_GetAttr(torch.forward_ad, call.names.current_level));
  if (level.get() == nullptr) return -1;
  return PyLong_AsLong(level.get()) >= 0 ? 1 : 0;
}

// torch's own, [..., columns], for x [..., K].
PyObject* allocate(const Call& call, const DLTensor& x) {
  const Ref sizes(PyTuple_New(x.ndim));
  const Ref strides(PyTuple_New(x.ndim));
  if (sizes.get() == nullptr || strides.get() == nullptr) return nullptr;
  std::int64_t stride = 1;
  for (int i = x.ndim - 1; i >= 0; --i) {
    const std::int64_t size = i == x.ndim - 1 ? columns_of(*call.plans) : x.shape[i];
    PyTuple_SetItem(sizes.get(), i, PyLong_FromLongLong(size));
    PyTuple_SetItem(strides.get(), i, PyLong_FromLongLong(stride));
    stride *= size == 0 ? 1 : size;
  }
  PyObject* empty = call.torch.empty_strided[x.device.device_type == kDLCUDA ? 1 : 0];
  return PyObject_CallFunctionObjArgs(empty, sizes.get(), strides.get(), call.dtype, nullptr);
}

bool run(const Call& call, DLTensor* x, DLTensor* packed, DLTensor* out, DLTensor* bias) {
  void* thread = PyEval_SaveThread();
  bool done = false;
  try {
    const TensorView added(bias == nullptr ? x : bias);
    done = linear(
        *call.plans,
        {TensorView(x), TensorView(packed), TensorView(out), nullptr, nullptr, bias == nullptr ? nullptr : &added},
        call.torch.tensors);
  } catch (const std::exception&) {  // said once more, and better, on the long way
  }
  PyEval_RestoreThread(thread);
  return done;
}

// Whether torch has yet to change a tensor's signs, as it has of the imaginary part of a conjugate.
int is_negative(const Call& call, PyObject* object, const DLTensor& tensor) {
  if (tensor.dtype.code != kDLFloat) return 0;  // bf16 has no complex numbers
  return is_true(Ref(PyObject_CallMethodObjArgs(object, call.names.is_neg, nullptr)));
}

// call(x, packed[, out[, bias]]): the product, or None where it has to go the long way.
PyObject* product(PyObject* self, PyObject* const* arguments, std::ptrdiff_t count) {
  const Call& call = *static_cast<const Call*>(PyCapsule_GetPointer(self, kName));
  if (count < 2) return none();
  const auto given_at = [&](std::ptrdiff_t i) {
    return i < count && arguments[i] != &_Py_NoneStruct ? arguments[i] : nullptr;
  };
  const Given given = {arguments[0], arguments[1], given_at(2), given_at(3)};
  if (!is_plain(given, call.torch)) return none();
  if (const int watched = is_watched(call, given); watched != 0) return watched < 0 ? nullptr : none();

  const auto view = [&](PyObject* object, DLTensor* tensor) {
    if (call.torch.tensors->dltensor_from_py_object_no_sync(object, tensor) == 0) return true;
    PyErr_Clear();  // it has no data
    return false;
  };
  DLTensor x;
  DLTensor packed;
  DLTensor out;
  DLTensor bias;
  if (!view(given.x, &x) || !view(given.packed, &packed) || x.ndim == 0) return none();
  if (const int negative = is_negative(call, given.x, x); negative != 0) return negative < 0 ? nullptr : none();
  if (given.bias != nullptr) {
    if (!view(given.bias, &bias)) return none();
    if (const int negative = is_negative(call, given.bias, bias); negative != 0) return negative < 0 ? nullptr : none();
  }
  if (given.out != nullptr) Py_IncRef(given.out);
  Ref result(given.out != nullptr ? given.out : allocate(call, x));
  if (result.get() == nullptr) return nullptr;
  if (!view(result.get(), &out)) return none();
  if (!run(call, &x, &packed, &out, given.bias != nullptr ? &bias : nullptr)) return none();
  return result.release();
}

PyMethodDef method = {"call", &product, METH_FASTCALL, "The product, or None where it has to go the long way."};

}  // namespace

// The function of a kind's plans, kept for good. `torch` is a tuple of what struct Torch names.
extern "C" __attribute__((visibility("default"))) PyObject* machete_call_of(void* plans, PyObject* dtype,
                                                                            PyObject* torch) {
  Py_IncRef(dtype);
  Py_IncRef(torch);
  const auto part = [torch](std::ptrdiff_t i) { return PyTuple_GetItem(torch, i); };
  const auto* tensors = static_cast<const DLPackExchangeAPI*>(PyCapsule_GetPointer(part(10), "dlpack_exchange_api"));
  if (tensors == nullptr) return nullptr;
  auto* call =
      new Call{static_cast<PlanCache*>(plans),
               dtype,
               {part(0), part(1), part(2), {part(3), part(4), part(5)}, part(6), part(7), {part(8), part(9)}, tensors},
               {}};
  const Ref self(PyCapsule_New(call, kName, nullptr));
  return self.get() == nullptr ? nullptr : PyCFunction_NewEx(&method, self.get(), nullptr);
}

}  // namespace machete::python
