#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "machete/status.h"

namespace machete::bench {

/// One linear: D[M, N] = A[M, K] · W[N, K]ᵀ.
struct Shape {
  std::string name;
  std::int64_t n = 0;
  std::int64_t k = 0;
};

struct Suite {
  std::string name;
  std::vector<Shape> shapes;
  bool chain = false;  // also time the shapes in turn, as one decoder layer runs them
};

std::vector<std::string> suite_names();
Result<Suite> find_suite(std::string_view name);

}  // namespace machete::bench
