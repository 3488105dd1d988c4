#include <algorithm>
#include <cstdint>
#include <vector>

#include "bench/read_stream.h"
#include "bench/timer.h"
#include "testing/cuda_status.h"
#include "testing/random.h"

namespace machete::bench {
namespace {

constexpr int kThreads = 256;
constexpr int kLoadsInFlight = 8;  // of 16 bytes, a thread
constexpr int kStepBytes = kThreads * 16;
constexpr int kBlockBytes = kLoadsInFlight * kStepBytes;

__device__ uint4 load_once(const unsigned char* address) {
  uint4 value;
  asm volatile("ld.global.nc.L1::no_allocate.L2::256B.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(value.x), "=r"(value.y), "=r"(value.z), "=r"(value.w)
               : "l"(address));
  return value;
}

__global__ void __launch_bounds__(kThreads)
    read_blocks(const unsigned char* memory, std::int64_t blocks, std::uint32_t* sink) {
  std::uint32_t mixed = 0;
  for (std::int64_t block = blockIdx.x; block < blocks; block += gridDim.x) {
    const unsigned char* mine = memory + block * kBlockBytes + threadIdx.x * 16;
    uint4 values[kLoadsInFlight];
#pragma unroll
    for (int i = 0; i < kLoadsInFlight; ++i) values[i] = load_once(mine + i * kStepBytes);
#pragma unroll
    for (int i = 0; i < kLoadsInFlight; ++i) mixed ^= values[i].x ^ values[i].y ^ values[i].z ^ values[i].w;
  }
  // Hardly ever true, but the compiler cannot know: it must keep the loads.
  if (mixed == 0x9E3779B9) *sink = mixed;
}

}  // namespace

Result<double> measure_read_stream(void* memory, std::size_t bytes, cudaStream_t stream) {
  int device = 0;
  int sms = 0;
  cudaError_t error = cudaGetDevice(&device);
  if (error == cudaSuccess) error = cudaDeviceGetAttribute(&sms, cudaDevAttrMultiProcessorCount, device);
  if (error != cudaSuccess) return testing::cuda_status(error, "count of SMs");
  const std::int64_t blocks = static_cast<std::int64_t>(bytes) / kBlockBytes;
  // Uniform bytes, as the nibbles of a weight of two columns.
  if (Status filled = testing::fill_qweight(WeightType::kU4b8, memory, blocks * kBlockBytes, 2, 1, stream);
      !filled.ok())
    return filled;

  std::vector<Contender> grids;
  for (const int blocks_per_sm : {2, 4, 8}) {
    grids.push_back({[=](std::int64_t, cudaStream_t s) {
                       read_blocks<<<sms * blocks_per_sm, kThreads, 0, s>>>(static_cast<unsigned char*>(memory), blocks,
                                                                            static_cast<std::uint32_t*>(memory));
                       return testing::launch_status("read-only stream");
                     },
                     4});
  }
  const Result<std::vector<double>> times = time_in_turn(grids, stream);
  if (!times.ok()) return times.status();
  const double us = *std::min_element(times->begin(), times->end());
  return static_cast<double>(blocks) * kBlockBytes / us / 1e6;
}

}  // namespace machete::bench
