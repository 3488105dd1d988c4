#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "tests/gpu/workbench.h"

// PlanOptions::batch_invariant: a token's bits depend neither on M nor on its place.
namespace machete::tests {
namespace {

class Invariance : public GpuTest {};

std::vector<std::uint16_t> halves(const std::vector<unsigned char>& bytes) {
  std::vector<std::uint16_t> result(bytes.size() / 2);
  std::memcpy(result.data(), bytes.data(), bytes.size());
  return result;
}

// The first and last tokens of 64 among fewer, under every schedule that the option allows.
TEST_F(Invariance, ATokenHasTheSameBitsWhateverM) {
  struct Shape {
    std::int64_t n, k, group_size;
  };
  for (const DataType type : kActivationTypes) {
    for (const Shape& shape :
         {Shape{4096, 4096, 128}, Shape{6200, 2800, 64}, Shape{200, 11008, 32}, Shape{96, 1000, 192},
          Shape{256, 600, -1}, Shape{16900, 1408, 64}, Shape{28672, 512, 128}}) {
      Case c{make_problem(type, 64, shape.n, shape.k, shape.group_size)};
      bench().prepare(c);
      std::vector<std::uint16_t> expected;  // [64, N]
      for (const std::int64_t m : {64, 1, 2, 5, 8, 9, 16, 17, 31, 32, 33, 63}) {
        for (const std::int64_t from : {std::int64_t{0}, 64 - m}) {
          c.problem.m = m;
          PlanOptions options;
          options.device = Device::cuda();
          options.batch_invariant = true;
          const auto choices = require(list_schedules(c.problem, options));
          ASSERT_FALSE(choices.empty());
          for (const ScheduleChoice& choice : choices) {
            options.schedule = choice.name;
            const Plan made = require(plan(c.problem, options));
            require(bench().workspace().resize(made.workspace_size()));
            bench().poison_output(c);
            Arguments arguments = bench().arguments();
            arguments.a = static_cast<const std::uint16_t*>(arguments.a) + from * shape.k;
            require(run(made, arguments, bench().workspace().data(), bench().workspace().size(), bench().stream()));
            const auto found = halves(bench().output());
            if (expected.empty()) expected = found;
            for (std::int64_t i = 0; i < m * shape.n; ++i) {
              ASSERT_EQ(found[static_cast<std::size_t>(i)], expected[static_cast<std::size_t>(from * shape.n + i)])
                  << choice.name << " m=" << m << " from=" << from << " element " << i << "\n  " << c;
            }
          }
        }
      }
    }
  }
}

TEST_F(Invariance, ServesUpTo64Tokens) {
  PlanOptions options;
  options.device = Device::cuda();
  options.batch_invariant = true;
  const auto refused = plan(make_problem(DataType::kBf16, 65, 256, 256), options);
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.status().code(), StatusCode::kUnsupported);
}

}  // namespace
}  // namespace machete::tests
