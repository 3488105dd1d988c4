#pragma once

#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include <cstddef>
#include <memory>
#include <string>
#include <vector>

#include "machete/linear.h"
#include "machete/weight.h"
#include "testing/device_buffer.h"
#include "testing/device_check.h"
#include "tests/gpu/case.h"

namespace machete::tests {

/// Ends the test where something other than the code under test fails (gtest reports the exception).
void require(const Status& status);
void require(cudaError_t error, const char* attempt);
template <class T>
T require(Result<T> result) {
  require(result.status());
  return std::move(*result);
}

/// Buffers on the GPU, reused from case to case, with guard zones around every one of them.
class Workbench {
 public:
  Workbench();
  ~Workbench();
  Workbench(const Workbench&) = delete;
  Workbench& operator=(const Workbench&) = delete;

  enum class Check { kBounds, kExact };

  /// The whole way: data, prepack, plan, poisoned workspace and output, run, then guards, padding and values. Makes
  /// only what differs from the case before. After 20 failures it throws, as more lines would help nobody.
  ::testing::AssertionResult try_case(const Case& c, Check check = Check::kBounds);

  // The same in steps.
  void prepare(const Case& c);  // weight, packed weight, activations
  void prepare_activations(const Case& c, cudaStream_t stream);
  void poison_output(const Case& c);                                    // sizes and poisons D
  Result<Plan> make_plan(const Case& c);                                // and sizes the workspace
  Status run_plan(const Plan& plan, const PackedWeight& packed);        // poisons the workspace; waits
  testing::DeviceErrorReport check_output(const Case& c, Check check);  // against the canonical weight
  ::testing::AssertionResult guards_intact() const;

  cudaStream_t stream() const { return stream_; }
  QuantizedWeight weight() const { return weight_; }             // in device memory
  const PackedWeight& packed() const { return packed_weight_; }  // prepacked on the GPU
  Arguments arguments();                                         // of the prepared case
  testing::DeviceBuffer& a() { return a_; }
  testing::DeviceBuffer& d() { return d_; }
  testing::DeviceBuffer& qweight() { return qweight_; }
  testing::DeviceBuffer& scales() { return scales_; }
  testing::DeviceBuffer& workspace() { return workspace_; }

  /// D as it is now, all of it with the padding.
  std::vector<unsigned char> output() const;

 private:
  ::testing::AssertionResult fail(const Case& c, const std::string& what);
  void prepare_weight(const Case& c);

  cudaStream_t stream_ = nullptr;
  testing::DeviceBuffer a_{testing::DeviceBuffer::Guard::kZones};
  testing::DeviceBuffer qweight_{testing::DeviceBuffer::Guard::kZones};
  testing::DeviceBuffer scales_{testing::DeviceBuffer::Guard::kZones};
  testing::DeviceBuffer zero_points_{testing::DeviceBuffer::Guard::kZones};
  testing::DeviceBuffer g_idx_{testing::DeviceBuffer::Guard::kZones};
  testing::DeviceBuffer packed_{testing::DeviceBuffer::Guard::kZones};
  testing::DeviceBuffer d_{testing::DeviceBuffer::Guard::kZones};
  testing::DeviceBuffer workspace_{testing::DeviceBuffer::Guard::kZones};
  testing::DeviceCheck check_;
  QuantizedWeight weight_;
  PackedWeight packed_weight_;
  std::string weight_key_;
  std::string activation_key_;
  int failures_ = 0;
};

/// Skips without a GPU; gives the tests of a suite one workbench.
class GpuTest : public ::testing::Test {
 protected:
  void SetUp() override;
  static void TearDownTestSuite() { bench_.reset(); }

  Workbench& bench() { return *bench_; }

 private:
  static std::unique_ptr<Workbench> bench_;
};

}  // namespace machete::tests
