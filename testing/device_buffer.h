#pragma once

#include <cuda_runtime_api.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <utility>

#include "machete/status.h"
#include "testing/cuda_status.h"

namespace machete::testing {

/// Memory on the current CUDA device, freed with the object. With guards, 4 KiB zones directly before the first and
/// after the last byte hold a pattern: whoever writes past an end is found out by guards_intact(), and whoever reads
/// there gets NaN in every 16- and 32-bit floating-point type.
class DeviceBuffer {
 public:
  enum class Guard { kNone, kZones };
  static constexpr std::size_t kGuardBytes = 4096;

  /// Empty; resize() gives it memory.
  explicit DeviceBuffer(Guard guard = Guard::kNone) : guard_(guard) {}
  static Result<DeviceBuffer> create(std::size_t bytes, Guard guard = Guard::kNone) {
    DeviceBuffer buffer(guard);
    if (Status status = buffer.resize(bytes); !status.ok()) return status;
    return Result<DeviceBuffer>(std::move(buffer));
  }

  ~DeviceBuffer() { release(); }
  DeviceBuffer(const DeviceBuffer&) = delete;
  DeviceBuffer& operator=(const DeviceBuffer&) = delete;
  DeviceBuffer(DeviceBuffer&& other) noexcept { swap(other); }
  DeviceBuffer& operator=(DeviceBuffer&& other) noexcept {
    swap(other);
    return *this;
  }

  void* data() { return base_ == nullptr ? nullptr : base_ + front(); }
  const void* data() const { return base_ == nullptr ? nullptr : base_ + front(); }
  template <class T>
  T* as() {
    return static_cast<T*>(data());
  }
  template <class T>
  const T* as() const {
    return static_cast<const T*>(data());
  }
  std::size_t size() const { return size_; }

  /// Gives the buffer `bytes` bytes of undefined contents and lays the guards afresh around exactly these. Allocates
  /// only to grow; nothing may be using the buffer. data() is 256-byte aligned and never null after success.
  Status resize(std::size_t bytes) {
    const std::size_t needed = bytes + 2 * front();
    if (base_ == nullptr || needed > capacity_) {
      release();
      void* base = nullptr;
      const cudaError_t error = cudaMalloc(&base, needed > 0 ? needed : 1);
      if (error != cudaSuccess) return cuda_status(error, "cudaMalloc");
      base_ = static_cast<unsigned char*>(base);
      capacity_ = needed;
    }
    size_ = bytes;
    if (guard_ == Guard::kNone) return {};
    for (const std::size_t offset : {std::size_t{0}, front() + size_}) {
      const Zone laid = zone(offset);
      const cudaError_t error = cudaMemcpy(base_ + offset, laid.data(), kGuardBytes, cudaMemcpyHostToDevice);
      if (error != cudaSuccess) return cuda_status(error, "lay the guard");
    }
    return {};
  }

  /// Fills the contents with 0xFF: NaN in every floating-point type, -1 in every counter.
  Status poison(cudaStream_t stream = nullptr) { return fill(0xFF, stream); }
  Status fill(int byte, cudaStream_t stream = nullptr) {
    if (size_ == 0) return {};
    return cuda_status(cudaMemsetAsync(data(), byte, size_, stream), "cudaMemsetAsync");
  }

  Status upload(const void* host, std::size_t bytes) {
    return cuda_status(cudaMemcpy(data(), host, bytes, cudaMemcpyHostToDevice), "copy to the device");
  }
  Status download(void* host, std::size_t bytes) const {
    return cuda_status(cudaMemcpy(host, data(), bytes, cudaMemcpyDeviceToHost), "copy from the device");
  }

  /// Waits for the device; true if nobody wrote into the guards since resize(). Always true without guards.
  Result<bool> guards_intact() const {
    cudaError_t error = cudaDeviceSynchronize();
    if (error != cudaSuccess) return cuda_status(error, "before the guards are read");
    if (guard_ == Guard::kNone || base_ == nullptr) return true;
    for (const std::size_t offset : {std::size_t{0}, front() + size_}) {
      Zone found{};
      error = cudaMemcpy(found.data(), base_ + offset, kGuardBytes, cudaMemcpyDeviceToHost);
      if (error != cudaSuccess) return cuda_status(error, "read the guard");
      if (found != zone(offset)) return false;
    }
    return true;
  }

 private:
  using Zone = std::array<unsigned char, kGuardBytes>;

  std::size_t front() const { return guard_ == Guard::kZones ? kGuardBytes : 0; }

  // 0xFFF5 at every even offset, so that an aligned read past an end of the buffer sees NaN; unlike the poison 0xFF.
  static Zone zone(std::size_t offset) {
    Zone bytes{};
    for (std::size_t i = 0; i < bytes.size(); ++i) bytes[i] = (offset + i) % 2 == 0 ? 0xF5 : 0xFF;
    return bytes;
  }

  void release() {
    if (base_ != nullptr) static_cast<void>(cudaFree(base_));
    base_ = nullptr;
    size_ = capacity_ = 0;
  }

  void swap(DeviceBuffer& other) noexcept {
    std::swap(guard_, other.guard_);
    std::swap(base_, other.base_);
    std::swap(size_, other.size_);
    std::swap(capacity_, other.capacity_);
  }

  Guard guard_ = Guard::kNone;
  unsigned char* base_ = nullptr;
  std::size_t size_ = 0;
  std::size_t capacity_ = 0;
};

}  // namespace machete::testing
