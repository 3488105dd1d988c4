#pragma once

#include <gtest/gtest.h>

#include <set>
#include <string>
#include <tuple>

#include "machete/machete.h"
#include "tests/gpu/case.h"

namespace machete::tests {

/// Which compiled kernels a test has run.
class Coverage {
 public:
  void add(const Problem& problem, const std::string& schedule) {
    ran_.insert({problem.w_type, problem.a_type, problem.scale_type(), kernel_of(problem, schedule)});
  }

  /// Fails for each kernel of the pair that is compiled and was not added.
  void expect_all(const Pair& pair) const {
    const DataType scale_type = make_problem(pair, 1, 1, 1).scale_type();
    for (const KernelInfo& kernel : list_kernels()) {
      if (kernel.backend != Backend::kCuda || kernel.w_type != pair.w_type || kernel.a_type != pair.a_type ||
          kernel.scale_type != scale_type) {
        continue;
      }
      EXPECT_TRUE(ran_.count({pair.w_type, pair.a_type, scale_type, kernel.name}) > 0)
          << kernel.name << " of " << name_of(pair.a_type) << " x " << name_of(pair.w_type) << " with scales of "
          << name_of(scale_type) << " is compiled but never ran";
    }
  }

 private:
  // A schedule is named after its kernel: "gemm_128x64x128_streamk" runs "gemm_128x64x128".
  static std::string kernel_of(const Problem& problem, const std::string& schedule) {
    std::string longest;
    for (const KernelInfo& kernel : list_kernels()) {
      const bool named = schedule == kernel.name || schedule.rfind(kernel.name + "_", 0) == 0;
      if (kernel.a_type == problem.a_type && named && kernel.name.size() > longest.size()) longest = kernel.name;
    }
    EXPECT_FALSE(longest.empty()) << "no compiled kernel gives schedule " << schedule << " its name";
    return longest;
  }

  std::set<std::tuple<WeightType, DataType, DataType, std::string>> ran_;
};

}  // namespace machete::tests
