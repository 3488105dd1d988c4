#include "bench/tokens.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "bench/machine.h"
#include "bench/read_stream.h"
#include "bench/report.h"
#include "bench/timer.h"
#include "machete/tokens.h"
#include "testing/device_buffer.h"
#include "testing/random.h"
#include "tuning/result_file.h"

namespace machete::bench {
namespace {

struct TokenRow {
  std::int64_t m, k;
  DataType code_type;
  double us, floor_us;
};

Result<double> time_one(const TokenQuantization& what, char* memory, std::int64_t l2_bytes, cudaStream_t stream) {
  const auto padded = [](std::int64_t bytes) { return (bytes + 255) / 256 * 256; };
  const std::int64_t a_bytes = padded(what.m * what.k * 2);
  const std::int64_t code_bytes = padded(what.m * what.k);
  const std::int64_t each = a_bytes + code_bytes + padded(what.m * 4);
  const std::int64_t copies = std::max<std::int64_t>(2, 4 * l2_bytes / each + 1);
  for (std::int64_t i = 0; i < copies; ++i) {
    const Status status =
        testing::fill_activations(what.a_type, memory + i * each, what.m, what.k, what.k,
                                  testing::ActivationFill::kNormal, static_cast<std::uint64_t>(i) + 1, stream);
    if (!status.ok()) return status;
  }
  TokenOptions options;
  options.device = Device::cuda();
  const Contender contender{[&](std::int64_t i, cudaStream_t on) {
    char* const a = memory + i % copies * each;
    return quantize_tokens(what, a, a + a_bytes, reinterpret_cast<float*>(a + a_bytes + code_bytes), options,
                           Stream(on));
  }};
  const auto times = time_in_turn({contender}, stream);
  if (!times.ok()) return times.status();
  return times->front();
}

nlohmann::ordered_json to_json(const DeviceFacts& facts, double read_tb_s, const TokenBenchOptions& options,
                               const std::vector<TokenRow>& rows) {
  nlohmann::ordered_json json;
  const Machine& machine = facts.machine;
  json["machine"] = {{"gpu", machine.gpu}, {"sms", machine.sms}, {"driver", machine.driver}, {"cuda", machine.cuda}};
  json["commit"] = options.commit;
  json["date"] = today();
  json["read_tb_s"] = read_tb_s;
  for (const TokenRow& row : rows) {
    json["tokens"].push_back({{"m", row.m},
                              {"k", row.k},
                              {"a_type", "bf16"},
                              {"code_type", name_of(row.code_type)},
                              {"us", row.us},
                              {"floor_us", row.floor_us}});
  }
  return json;
}

}  // namespace

Status run_token_bench(const TokenBenchOptions& options) {
  const Result<DeviceFacts> facts = select_device(options.device);
  if (!facts.ok()) return facts.status();
  tuning::ResultFile file;
  if (!options.json_path.empty()) {
    if (Status status = file.open(options.json_path); !status.ok()) return status;
  }
  const auto ms = options.ms.empty() ? std::vector<std::int64_t>{1, 16, 256, 1024, 4096, 8192} : options.ms;
  constexpr std::int64_t kSizes[] = {4096, 8192, 14336, 28672};
  const std::int64_t most = *std::max_element(ms.begin(), ms.end()) * kSizes[3] * 3 * 2 + 8 * facts->l2_bytes;
  testing::DeviceBuffer memory;
  Status status = memory.resize(std::max(kReadStreamBytes, static_cast<std::size_t>(most)));
  if (!status.ok()) return status;
  cudaStream_t stream = nullptr;
  status = testing::cuda_status(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "cudaStreamCreate");
  if (!status.ok()) return status;
  double read_tb_s = 0;
  for (int i = 0; i < 5; ++i) {
    const Result<double> read = measure_read_stream(memory.data(), kReadStreamBytes, stream);
    if (!read.ok()) return read.status();
    read_tb_s = std::max(read_tb_s, *read);
  }
  fmt::print("{}, read-only stream {:.2f} TB/s\n", facts->machine.gpu, read_tb_s);
  fmt::print("{:>6} {:>6} {:>6} {:>9} {:>9} {:>6}\n", "M", "K", "codes", "us", "floor", "of it");
  std::vector<TokenRow> rows;
  for (const DataType code_type : {DataType::kE4m3, DataType::kS8}) {
    for (const std::int64_t k : kSizes) {
      for (const std::int64_t m : ms) {
        TokenQuantization what;
        what.m = m;
        what.k = k;
        what.code_type = code_type;
        const Result<double> us = time_one(what, memory.as<char>(), facts->l2_bytes, stream);
        if (!us.ok()) return us.status();
        const double floor_us = static_cast<double>(m * k * 3 + m * 4) / read_tb_s * 1e-6;
        rows.push_back({m, k, code_type, *us, floor_us});
        fmt::print("{:>6} {:>6} {:>6} {:>9.2f} {:>9.2f} {:>5.0f}%\n", m, k, name_of(code_type), *us, floor_us,
                   100 * floor_us / *us);
      }
    }
  }
  static_cast<void>(cudaStreamDestroy(stream));
  if (options.json_path.empty()) return {};
  return file.commit(to_json(*facts, read_tb_s, options, rows).dump(1) + "\n");
}

}  // namespace machete::bench
