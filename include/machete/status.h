#pragma once

#include <cassert>
#include <optional>
#include <string>
#include <utility>

namespace machete {

enum class StatusCode {
  kOk,
  kInvalidArgument,  // the caller's input breaks a stated rule
  kUnsupported,      // valid, but nothing in this build or on this device serves it
  kIncompatible,     // a PackedWeight of another version, shape or type than the plan's
  kCorrupt,          // a file whose contents contradict themselves
  kIo,               // the operating system refused to read or write
  kOutOfMemory,
  kDevice,  // the CUDA runtime reported an error
};

/// The outcome of a call: success, or a code and one line that gives the value, the rule and the remedy.
class [[nodiscard]] Status {
 public:
  Status() = default;  // success
  Status(StatusCode code, std::string message) : code_(code), message_(std::move(message)) {}

  bool ok() const { return code_ == StatusCode::kOk; }
  StatusCode code() const { return code_; }
  const std::string& message() const { return message_; }

 private:
  StatusCode code_ = StatusCode::kOk;
  std::string message_;
};

/// A value, or the Status that says why there is none. Dereference only after `ok()`.
template <class T>
class [[nodiscard]] Result {
 public:
  Result(T value) : value_(std::move(value)) {}                                  // NOLINT(google-explicit-constructor)
  Result(Status status) : status_(std::move(status)) { assert(!status_.ok()); }  // NOLINT(google-explicit-constructor)

  bool ok() const { return status_.ok(); }
  const Status& status() const { return status_; }

  T& operator*() { return *value_; }
  const T& operator*() const { return *value_; }
  T* operator->() { return &*value_; }
  const T* operator->() const { return &*value_; }

 private:
  Status status_;
  std::optional<T> value_;
};

}  // namespace machete
