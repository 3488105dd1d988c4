#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>

namespace machete::bench {

/// Hands out pieces of one allocation. Without memory it only counts: lay everything out once in an empty arena,
/// allocate used() bytes, and lay it out again.
class Arena {
 public:
  Arena() = default;
  Arena(void* base, std::size_t capacity) : base_(static_cast<char*>(base)), capacity_(capacity) {}

  /// 256-byte aligned; null while counting, and when the memory is too small.
  void* take(std::size_t bytes) {
    const std::size_t offset = used_;
    used_ += (bytes + 255) / 256 * 256;
    return base_ == nullptr || used_ > capacity_ ? nullptr : base_ + offset;
  }

  std::size_t used() const { return used_; }

 private:
  char* base_ = nullptr;
  std::size_t capacity_ = std::numeric_limits<std::size_t>::max();
  std::size_t used_ = 0;
};

}  // namespace machete::bench
