// libFuzzer over saved PackedWeights: any bytes as a file, which is loaded, unpacked and run. A checksum of zero is
// made right, so that the fuzzer's work goes into what it guards.
#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "kernels/convert/coding.h"
#include "machete/machete.h"

namespace {

using namespace machete;  // NOLINT(google-build-using-namespace)

void require(bool condition) {
  if (!condition) std::abort();
}

/// An error must say something, on one line.
void check(const Status& status) {
  require(status.ok() || (!status.message().empty() && status.message().find('\n') == std::string::npos));
}

/// As src/api/weight_file.cpp has it.
std::uint64_t checksum(const std::uint8_t* payload, std::size_t bytes) {
  std::uint64_t hash = 0xcbf29ce484222325u;
  for (std::size_t i = 0; i + 8 <= bytes; i += 8) {
    std::uint64_t word = 0;
    std::memcpy(&word, payload + i, 8);
    hash = (hash ^ word) * 0x100000001b3u;
  }
  return hash;
}

/// A file in memory, open as long as this lives.
class MemoryFile {
 public:
  MemoryFile(const std::uint8_t* data, std::size_t size) : descriptor_(::memfd_create("weight", 0)) {
    require(descriptor_ >= 0);
    for (std::size_t done = 0; done < size;) {
      const ssize_t written = ::write(descriptor_, data + done, size - done);
      require(written > 0);
      done += static_cast<std::size_t>(written);
    }
  }
  ~MemoryFile() { ::close(descriptor_); }
  MemoryFile(const MemoryFile&) = delete;
  MemoryFile& operator=(const MemoryFile&) = delete;
  std::string path() const { return "/proc/self/fd/" + std::to_string(descriptor_); }

 private:
  int descriptor_;
};

std::int64_t header_groups(const PackedHeader& header) {
  return header.group_size > 0 ? (header.k + header.group_size - 1) / header.group_size : 1;
}

/// A token of ones through the weight, as the header describes it.
void run_one(const PackedWeight& weight) {
  const PackedHeader& header = weight.header();
  Problem problem;
  problem.m = 1;
  problem.n = header.n;
  problem.k = header.k;
  problem.w_type = header.type;
  problem.group_size = header.group_size;
  problem.a_type = problem.d_type = header.scale_type;
  if (header.activation_bits == 8) {
    problem.a_type = convert::find(header.type)->meets(DataType::kS8) ? DataType::kS8 : DataType::kE4m3;
  }
  problem.act_order = header.permutation_bytes != 0;
  if (header.swiglu != 0) problem.epilogue.activation = Activation::kSwiglu;
  PlanOptions options;
  options.device = Device::cpu();
  const Result<Plan> plan = machete::plan(problem, options);
  require(plan.ok());
  std::vector<std::uint16_t> a(static_cast<std::size_t>(header.k), 0x3c00);
  std::vector<std::uint16_t> d(static_cast<std::size_t>(header.n));
  require(run(*plan, {a.data(), &weight, d.data()}, nullptr, 0).ok());
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  std::vector<std::uint8_t> bytes(data, data + size);
  if (size >= sizeof(PackedHeader)) {
    PackedHeader header;
    std::memcpy(&header, data, sizeof(header));
    if (header.checksum == 0) header.checksum = checksum(data + sizeof(header), size - sizeof(header));
    std::memcpy(bytes.data(), &header, sizeof(header));
  }
  const MemoryFile file(bytes.data(), bytes.size());
  const Result<PackedWeight> weight = load(file.path(), Device::cpu());
  check(weight.status());
  if (!weight.ok()) return 0;
  const Result<UnpackedWeight> unpacked = unpack(*weight);
  check(unpacked.status());
  if (!unpacked.ok()) return 0;
  const auto groups = static_cast<std::size_t>(header_groups(weight->header()) * weight->header().n);
  const bool zeros = has_zero_points(weight->header().type);
  require(unpacked->scales.size() == groups * 2);
  require(unpacked->zero_points.size() == (zeros ? groups * bytes_of(unpacked->zero_point_type) : 0));
  run_one(*weight);
  return 0;
}
