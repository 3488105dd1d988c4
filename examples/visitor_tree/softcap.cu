// A visitor tree that Machete does not have: D = cap * tanh(A . W^T / cap), the "soft cap" that Gemma puts on its
// logits.
//
// The step below and the type alias SoftCap are all that a tree takes; the rest runs it and checks it.

#include <cuda_runtime_api.h>
#include <machete/machete.h>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <string>
#include <vector>

#include "kernels/convert/u4b8.h"
#include "kernels/gemm/visitor_tree.cuh"

namespace {

struct Cap {
  float cap;
};
template <class T>
struct CapStep {
  using Arguments = Cap;  // one type for every T
  template <class Array>
  CUTLASS_DEVICE Array operator()(const Array& x, const Arguments& arguments) const {
    Array y;
    CUTLASS_PRAGMA_UNROLL
    for (int i = 0; i < static_cast<int>(Array::kElements); ++i) y[i] = arguments.cap * tanhf(x[i] / arguments.cap);
    return y;
  }
};

namespace fusion = cutlass::epilogue::fusion;
using SoftCap = fusion::Sm90EVT<machete::epilogue::Compute<CapStep>, fusion::Sm90AccFetch>;
using Bf16 = cutlass::bfloat16_t;
using Config = machete::gemm::Config<Bf16, machete::convert::U4b8, 128, 128, 128, 5>;

constexpr std::int64_t kM = 200, kN = 520, kK = 1024;
constexpr float kCap = 30;

int fail(const std::string& why) { return std::fprintf(stderr, "softcap: %s\n", why.c_str()), 1; }

}  // namespace

int main() {
  int gpus = 0;
  if (cudaGetDeviceCount(&gpus) != cudaSuccess || gpus == 0) {
    std::puts("softcap: skipped, there is no GPU here");
    return 77;
  }
  // W[n, k] = (q - 8) / 8 with q = (3 n + 5 k) mod 16; A[m, k] = ((m + k) mod 7 - 3) / 4: sums are exact in fp32.
  const auto code = [](std::int64_t n, std::int64_t k) { return (3 * n + 5 * k) % 16; };
  const auto quarters = [](std::int64_t m, std::int64_t k) { return (m + k) % 7 - 3; };
  std::vector<std::uint8_t> codes(kN * kK / 2);
  for (std::int64_t i = 0; i < kN * kK; ++i) codes[i / 2] |= code(i / kK, i % kK) << (i % 2 * 4);
  const std::vector<Bf16> scales(kK / 128 * kN, Bf16(0.125f));
  std::vector<Bf16> a(kM * kK);
  for (std::int64_t i = 0; i < kM * kK; ++i) a[i] = Bf16(quarters(i / kK, i % kK) / 4.0f);

  machete::QuantizedWeight w;
  w.n = kN;
  w.k = kK;
  w.group_size = 128;
  w.qweight = codes.data();
  w.scales = scales.data();
  machete::PrepackOptions where;
  where.device = machete::Device::cuda();
  const auto packed = machete::prepack(w, where);
  machete::Problem problem;
  problem.m = kM;
  problem.n = kN;
  problem.k = kK;
  machete::PlanOptions options;
  options.device = machete::Device::cuda();
  options.schedule = "gemm_128x128x128";
  const auto plan = machete::plan(problem, options);
  if (!packed.ok() || !plan.ok()) return fail((packed.ok() ? plan.status() : packed.status()).message());

  Bf16* device = nullptr;  // A, then D
  if (cudaMalloc(&device, (kM * kK + kM * kN) * sizeof(Bf16)) != cudaSuccess) return fail("no device memory");
  cudaMemcpy(device, a.data(), a.size() * sizeof(Bf16), cudaMemcpyHostToDevice);
  const machete::Arguments arguments = {device, &*packed, device + kM * kK};
  const auto status = machete::gemm::run_with_tree<Config, SoftCap>(*plan, arguments, {{}, {kCap}}, nullptr, 0);
  if (!status.ok()) return fail(status.message());
  std::vector<Bf16> d(kM * kN);
  if (cudaMemcpy(d.data(), arguments.d, d.size() * sizeof(Bf16), cudaMemcpyDeviceToHost) != cudaSuccess)
    return fail("the kernel failed");

  for (std::int64_t i = 0; i < kM * kN; ++i) {
    std::int64_t sum = 0;  // in thirty-seconds
    for (std::int64_t k = 0; k < kK; ++k) sum += quarters(i / kN, k) * (code(i % kN, k) - 8);
    const double expected = kCap * std::tanh(sum / 32.0 / kCap);
    if (!(std::abs(static_cast<float>(d[i]) - expected) <= std::abs(expected) / 256 + 1e-6)) return fail("wrong");
  }
  std::puts("softcap: every element is right");
  return 0;
}
