// What wgmma leaves of an SM quarter's issue slots: one warpgroup multiplies, another computes, each alone and both at
// once. Prints clocks per k16 step of the MMA and per instruction of a warp.

#include <cuda_runtime_api.h>

#include <cstdint>
#include <cstdio>
#include <cute/arch/mma_sm90.hpp>
#include <cute/atom/mma_traits_sm90_gmma.hpp>
#include <cute/tensor.hpp>

namespace machete::probes {

using namespace cute;  // NOLINT(google-build-using-namespace)

enum class Kind { kFma, kAdd, kLogic, kHalfFma, kConvert };

constexpr int kRegisters = 16;  // independent chains
constexpr int kRounds = 4;      // of all chains, in a turn of the loop
constexpr int kSteps = 4;       // k16, waited for together
constexpr int kTileBytes = 64 * 1024;

template <Kind kKind>
__device__ __forceinline__ void compute(std::uint32_t& r, std::uint32_t a, std::uint32_t b) {
  if (kKind == Kind::kFma) asm volatile("fma.rn.f32 %0, %0, %1, %2;" : "+r"(r) : "r"(a), "r"(b));
  if (kKind == Kind::kAdd) asm volatile("add.f32 %0, %0, %1;" : "+r"(r) : "r"(a));
  if (kKind == Kind::kLogic) asm volatile("lop3.b32 %0, %0, %1, %2, 0x6a;" : "+r"(r) : "r"(a), "r"(b));
  if (kKind == Kind::kHalfFma) asm volatile("fma.rn.bf16x2 %0, %0, %1, %2;" : "+r"(r) : "r"(a), "r"(b));
  if (kKind == Kind::kConvert) asm volatile("cvt.rn.f32.s32 %0, %0;" : "+r"(r));
}

struct Amounts {
  int multiplications;  // of kSteps
  int turns;            // of the other's loop
};

struct Clocks {
  long long multiplying;
  long long computing;
};

template <int kTokens>
__device__ float multiply(std::uint8_t* shared, int times) {
  using Operand = bfloat16_t;
  using Mma = decltype(make_tiled_mma(
      GMMA::rs_op_selector<Operand, Operand, float, Shape<_64, Int<kTokens>, _64>, GMMA::Major::K, GMMA::Major::K>()));
  Mma mma;
  auto slice = mma.get_slice(threadIdx.x);
  Tensor sB = make_tensor(make_smem_ptr(reinterpret_cast<Operand*>(shared)),
                          tile_to_shape(GMMA::Layout_K_SW128_Atom<Operand>{}, Shape<Int<kTokens>, _64>{}));
  Tensor tCrB = slice.make_fragment_B(slice.partition_B(sB));
  Tensor tCrA = make_tensor<Operand>(Layout<Shape<Shape<_2, _2, _2>, _1, Int<kSteps>>>{});
  Tensor sums = partition_fragment_C(mma, Shape<_64, Int<kTokens>>{});
  clear(tCrA);
  clear(sums);
  for (int i = 0; i < times; ++i) {
    warpgroup_fence_operand(sums);
    warpgroup_arrive();
#pragma unroll
    for (int k = 0; k < kSteps; ++k) cute::gemm(mma, tCrA(_, _, k), tCrB(_, _, k), sums);
    warpgroup_commit_batch();
    warpgroup_wait<0>();
    warpgroup_fence_operand(sums);
  }
  return sums(0);
}

template <int kTokens, Kind kKind>
__global__ void __launch_bounds__(256, 1) share(Amounts amounts, std::uint32_t a, std::uint32_t b, Clocks* clocks) {
  extern __shared__ __align__(1024) std::uint8_t shared[];
  for (int i = static_cast<int>(threadIdx.x); i < kTileBytes / 4; i += 256) {
    reinterpret_cast<std::uint32_t*>(shared)[i] = 0;
  }
  __syncthreads();
  const long long start = clock64();
  bool never = false;  // true would need other inputs; keeps the work
  if (threadIdx.x < 128) {
    never = multiply<kTokens>(shared, amounts.multiplications) != 0;
  } else {
    std::uint32_t r[kRegisters];
    for (int i = 0; i < kRegisters; ++i) r[i] = threadIdx.x * 77 + i;
#pragma unroll 1
    for (int turn = 0; turn < amounts.turns; ++turn) {
#pragma unroll
      for (int i = 0; i < kRounds * kRegisters; ++i) compute<kKind>(r[i % kRegisters], a, b);
    }
    for (int i = 1; i < kRegisters; ++i) r[0] ^= r[i];
    never = r[0] == 0x12345678;
  }
  const long long took = clock64() - start;
  if (blockIdx.x == 0 && threadIdx.x == 0) clocks->multiplying = took;
  if (blockIdx.x == 0 && threadIdx.x == 128) clocks->computing = took + (never ? 1 : 0);
}

template <int kTokens, Kind kKind>
void print_shares(const char* name, Clocks* clocks) {
  const Amounts both = {2048, kTokens * 32};
  const auto run = [&](Amounts amounts) {
    cudaFuncSetAttribute(share<kTokens, kKind>, cudaFuncAttributeMaxDynamicSharedMemorySize, kTileBytes);
    for (int i = 0; i < 2; ++i) {  // the first brings the code
      share<kTokens, kKind><<<132, 256, kTileBytes>>>(amounts, 0x3f803f80, 0x00010001, clocks);
    }
    cudaDeviceSynchronize();
    return *clocks;
  };
  const double steps = both.multiplications * kSteps;
  const double instructions = static_cast<double>(both.turns) * kRounds * kRegisters;
  const Clocks multiplied = run({both.multiplications, 0});
  const Clocks computed = run({0, both.turns});
  const Clocks shared = run(both);
  std::printf("m64n%-3d %-10s  alone: %6.1f a k16 step, %.2f an instruction   both: %6.1f, %.2f\n", kTokens, name,
              static_cast<double>(multiplied.multiplying) / steps,
              static_cast<double>(computed.computing) / instructions, static_cast<double>(shared.multiplying) / steps,
              static_cast<double>(shared.computing) / instructions);
}

template <int kTokens>
void print_kinds(Clocks* clocks) {
  print_shares<kTokens, Kind::kFma>("ffma", clocks);
  print_shares<kTokens, Kind::kAdd>("fadd", clocks);
  print_shares<kTokens, Kind::kLogic>("lop3", clocks);
  print_shares<kTokens, Kind::kHalfFma>("hfma2.bf16", clocks);
  print_shares<kTokens, Kind::kConvert>("i2f", clocks);
}

}  // namespace machete::probes

int main() {
  using namespace machete::probes;  // NOLINT(google-build-using-namespace)
  Clocks* clocks = nullptr;
  if (cudaMallocManaged(&clocks, sizeof(Clocks)) != cudaSuccess) {
    std::puts("issue_share: needs a GPU");
    return 0;
  }
  print_kinds<32>(clocks);
  print_kinds<64>(clocks);
  print_kinds<128>(clocks);
  print_kinds<256>(clocks);
  const cudaError_t error = cudaFree(clocks);
  if (error != cudaSuccess) std::printf("issue_share: %s\n", cudaGetErrorString(error));
  return error == cudaSuccess ? 0 : 1;
}
