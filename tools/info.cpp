#include <fmt/format.h>

#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <system_error>
#include <vector>

#include "build_info.h"
#include "command.h"
#include "device_info.h"
#include "machete/machete.h"
#include "options.h"
#include "table.h"

namespace machete::tools {
namespace {

using Align = Table::Align;
using Json = nlohmann::ordered_json;

struct Facts {
  CudaInfo cuda = query_cuda();
  CpuInfo cpu = query_cpu();
  Device device = default_device();
  std::vector<KernelInfo> kernels = list_kernels();
  std::string compiler = std::string("C++ ") + __VERSION__;
  std::uintmax_t binary_bytes = 0;

  Facts() {
    std::error_code error;
    binary_bytes = std::filesystem::file_size("/proc/self/exe", error);
    if (error) binary_bytes = 0;
  }
};

Json to_json(const Facts& facts) {
  const auto or_null = [](const std::string& text) { return text.empty() ? Json() : Json(text); };
  Json json = {{"version", kVersion},
               {"commit", build_info::kCommit},
               {"build",
                {{"cuda", !facts.cuda.toolkit.empty()},
                 {"nvcc", or_null(facts.cuda.toolkit)},
                 {"compiler", facts.compiler},
                 {"binary_bytes", facts.binary_bytes}}},
               {"runtime", or_null(facts.cuda.runtime)},
               {"driver", or_null(facts.cuda.driver)},
               {"default_device", to_string(facts.device)},
               {"cpu", {{"name", facts.cpu.name}, {"threads", facts.cpu.threads}}},
               {"gpus", Json::array()},
               {"kernels", Json::array()}};
  for (const GpuInfo& gpu : facts.cuda.gpus) {
    json["gpus"].push_back({{"ordinal", gpu.ordinal},
                            {"name", gpu.name},
                            {"capability", gpu.capability},
                            {"sms", gpu.sms},
                            {"memory_bytes", gpu.memory_bytes},
                            {"usable", gpu.usable}});
  }
  for (const KernelInfo& kernel : facts.kernels) {
    json["kernels"].push_back({{"name", kernel.name},
                               {"backend", name_of(kernel.backend)},
                               {"w_type", name_of(kernel.w_type)},
                               {"a_type", name_of(kernel.a_type)},
                               {"scale_type", name_of(kernel.scale_type)},
                               {"registers", kernel.registers},
                               {"shared_memory", kernel.shared_memory}});
  }
  return json;
}

void print(const Facts& facts) {
  const auto line = [](std::string_view name, const std::string& value) {
    fmt::print("{} {}\n", paint(fmt::format("{:<16}", name), Tone::kStrong, use_colour(stdout)), value);
  };
  line("machete", fmt::format("{} (commit {})", kVersion, build_info::kCommit));
  line("build", fmt::format("{}; {}; this program {}",
                            facts.cuda.toolkit.empty() ? "CPU backend alone, no CUDA" : "CUDA " + facts.cuda.toolkit,
                            facts.compiler, human_bytes(static_cast<double>(facts.binary_bytes))));
  if (!facts.cuda.toolkit.empty()) {
    line("CUDA", fmt::format("runtime {}, driver {}", facts.cuda.runtime,
                             facts.cuda.driver.empty() ? "none" : "for CUDA up to " + facts.cuda.driver));
  }
  line("runs on", fmt::format("{} unless told otherwise", to_string(facts.device)));

  fmt::print("\n");
  Table devices({{"device", Align::kLeft}, {"name", Align::kLeft}, {"size"}, {"memory"}, {"", Align::kLeft}});
  devices.row({"cpu", facts.cpu.name, fmt::format("{} threads", facts.cpu.threads), "", ""});
  for (const GpuInfo& gpu : facts.cuda.gpus) {
    devices.row({to_string(Device::cuda(gpu.ordinal)), gpu.name, fmt::format("{} SMs", gpu.sms),
                 human_bytes(static_cast<double>(gpu.memory_bytes)),
                 gpu.usable ? Table::Cell("usable", Tone::kGood)
                            : Table::Cell(fmt::format("not usable: capability {}, must be 9.0", gpu.capability),
                                          Tone::kFaint)});
  }
  devices.print();
  if (facts.cuda.gpus.empty()) {
    fmt::print("No GPU{}.\n", facts.cuda.fault.empty() ? "" : ": " + facts.cuda.fault);
  }

  fmt::print("\n");
  Table kernels({{"kernel", Align::kLeft},
                 {"on", Align::kLeft},
                 {"weights"},
                 {"activations"},
                 {"scales"},
                 {"registers"},
                 {"shared memory"}});
  for (const KernelInfo& kernel : facts.kernels) {
    kernels.row({kernel.name, std::string(name_of(kernel.backend)), std::string(name_of(kernel.w_type)),
                 std::string(name_of(kernel.a_type)), std::string(name_of(kernel.scale_type)),
                 kernel.registers == 0 ? "" : fmt::format("{}", kernel.registers),
                 kernel.shared_memory == 0 ? "" : human_bytes(kernel.shared_memory)});
  }
  kernels.print();
}

}  // namespace

Command add_info(CLI::App& app) {
  CLI::App* command = app.add_subcommand("info", "What this build holds and which devices it finds");
  auto json = std::make_shared<bool>(false);
  add_json(*command, *json);
  return {command, [json] {
            const Facts facts;
            if (*json) {
              fmt::print("{}\n", to_json(facts).dump(2));
            } else {
              print(facts);
            }
            return Status();
          }};
}

}  // namespace machete::tools
