#pragma once

#include <tvm/ffi/error.h>

#include <string>
#include <utility>

#include "machete/status.h"

namespace machete::python {

inline const char* exception_of(StatusCode code) {
  switch (code) {
    case StatusCode::kInvalidArgument:
    case StatusCode::kIncompatible:
    case StatusCode::kCorrupt:
      return "ValueError";
    case StatusCode::kUnsupported:
      return "NotImplementedError";
    case StatusCode::kIo:
      return "OSError";
    case StatusCode::kOutOfMemory:
      return "MemoryError";
    case StatusCode::kDevice:
    case StatusCode::kOk:
      break;
  }
  return "RuntimeError";
}

/// The Python exception of a failed call, with the library's own text and nothing else.
[[noreturn]] inline void raise(StatusCode code, const std::string& message) {
  throw tvm::ffi::Error(exception_of(code), message, "");
}

inline void check(const Status& status) {
  if (!status.ok()) raise(status.code(), status.message());
}

template <class T>
T value_of(Result<T> result) {
  check(result.status());
  return std::move(*result);
}

}  // namespace machete::python
