#include "bench/timeline.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <map>

#include "bench/timer.h"
#include "kernels/timeline.h"
#include "testing/cuda_status.h"
#include "testing/device_buffer.h"

namespace machete::bench {
namespace {

using testing::cuda_status;

constexpr std::size_t kMaxCtas = 8192;  // those of a kernel that are recorded
constexpr std::size_t kWords = kMaxCtas * kernels::kMoments;
constexpr const char* kTitles[] = {"start", "dependency", "activations", "multiplied", "done"};
static_assert(std::size(kTitles) == kernels::kSm);

// Moments of one kernel: [CTA][kMoments]; zeros where nothing was recorded.
std::string line_of(const std::string& name, const std::uint64_t* moments, std::uint64_t origin) {
  std::size_t ctas = 0;
  std::map<std::uint64_t, int> per_sm;
  while (ctas < kMaxCtas && moments[ctas * kernels::kMoments] != 0) {
    ++per_sm[moments[ctas * kernels::kMoments + kernels::kSm]];
    ++ctas;
  }
  std::string line = fmt::format("{:<34}", name);
  for (std::size_t moment = 0; moment < kernels::kSm; ++moment) {
    std::vector<double> us;
    for (std::size_t cta = 0; cta < ctas; ++cta) {
      const std::uint64_t at = moments[cta * kernels::kMoments + moment];
      if (at != 0) us.push_back((static_cast<double>(at) - static_cast<double>(origin)) / 1e3);
    }
    std::sort(us.begin(), us.end());
    line += us.empty() ? fmt::format("{:>22}", "-")
                       : fmt::format("{:>8.2f}{:>7.2f}{:>7.2f}", us.front(), us[us.size() / 2], us.back());
  }
  const auto doubled = std::count_if(per_sm.begin(), per_sm.end(), [](const auto& entry) { return entry.second > 1; });
  return line + fmt::format("{:>6}{:>5}{:>8}", ctas, per_sm.size(), doubled);
}

}  // namespace

Status print_timeline(const std::vector<TimelineEntry>& chain, std::size_t first, cudaStream_t stream) {
  testing::DeviceBuffer device;
  if (Status status = device.resize(chain.size() * kWords * 8); !status.ok()) return status;
  Status status = cuda_status(cudaMemsetAsync(device.data(), 0, device.size(), stream), "clear the timeline");
  if (!status.ok()) return status;
  auto* moments = static_cast<std::uint64_t*>(device.data());
  const Contender contender = {[&](std::int64_t i, cudaStream_t on) {
                                 const auto at = static_cast<std::size_t>(i) % chain.size();
                                 return chain[at].launch(moments + at * kWords, on);
                               },
                               static_cast<std::int64_t>(chain.size())};
  if (status = run_once(contender, stream); !status.ok()) return status;
  std::vector<std::uint64_t> host(chain.size() * kWords);
  status = cuda_status(cudaMemcpy(host.data(), device.data(), device.size(), cudaMemcpyDeviceToHost), "the timeline");
  if (!status.ok()) return status;

  fmt::print("{:<34}", "us after the kernel ahead was done");
  for (const char* title : kTitles) fmt::print("{:>22}", title);
  fmt::print("{:>6}{:>5}{:>8}\n", "CTAs", "SMs", "doubled");
  for (std::size_t i = std::max<std::size_t>(first, 1); i < chain.size(); ++i) {
    std::uint64_t origin = 0;
    for (std::size_t cta = 0; cta < kMaxCtas; ++cta) {
      origin = std::max(origin, host[(i - 1) * kWords + cta * kernels::kMoments + kernels::kDone]);
    }
    fmt::print("{}\n", line_of(chain[i].name, host.data() + i * kWords, origin));
  }
  std::fflush(stdout);
  return {};
}

}  // namespace machete::bench
