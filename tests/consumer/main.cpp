// One linear on the CPU through the installed headers and library: ones times weights of the value (9 - 8) * 0.5.

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <vector>

#include "machete/machete.h"

namespace {

constexpr std::uint16_t kOne = 0x3f80;   // bf16
constexpr std::uint16_t kHalf = 0x3f00;  // bf16

int fail(const machete::Status& status) {
  std::fprintf(stderr, "consumer: %s\n", status.message().c_str());
  return 1;
}

}  // namespace

int main() {
  constexpr std::int64_t kM = 2, kN = 24, kK = 64;
  const std::vector<std::uint8_t> qweight(kN * kK / 2, 0x99);  // [N, K/2]
  const std::vector<std::uint16_t> scales(kN, kHalf);          // [1, N]
  machete::QuantizedWeight weight;
  weight.n = kN;
  weight.k = kK;
  weight.group_size = -1;
  weight.qweight = qweight.data();
  weight.scales = scales.data();

  machete::PrepackOptions prepack_options;
  prepack_options.device = machete::Device::cpu();
  const auto packed = machete::prepack(weight, prepack_options);
  if (!packed.ok()) return fail(packed.status());

  machete::Problem problem;
  problem.m = kM;
  problem.n = kN;
  problem.k = kK;
  problem.group_size = -1;
  machete::PlanOptions plan_options;
  plan_options.device = machete::Device::cpu();
  const auto plan = machete::plan(problem, plan_options);
  if (!plan.ok()) return fail(plan.status());

  const std::vector<std::uint16_t> a(kM * kK, kOne);  // [M, K]
  std::vector<std::uint16_t> d(kM * kN);              // [M, N]
  const std::size_t size = (plan->workspace_size() + 127) / 128 * 128;
  const std::unique_ptr<void, decltype(&std::free)> workspace(std::aligned_alloc(128, size), &std::free);
  const machete::Status status = machete::run(*plan, {a.data(), &*packed, d.data()}, workspace.get(), size);
  if (!status.ok()) return fail(status);

  constexpr std::uint16_t kExpected = 0x4200;  // 64 * 0.5 = 32 in bf16
  for (const std::uint16_t value : d) {
    if (value != kExpected) return fail({machete::StatusCode::kCorrupt, "a wrong result"});
  }
  std::printf("consumer: machete %s, %s\n", machete::kVersion, plan->schedule().c_str());
  return 0;
}
