#include <fmt/format.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <fstream>

#include "api/memory.h"
#include "api/validate.h"
#include "machete/weight.h"

namespace machete {
namespace {

// FNV-1a over 64-bit words; payloads are multiples of eight bytes.
std::uint64_t checksum(const void* payload, std::size_t bytes) {
  std::uint64_t hash = 0xcbf29ce484222325u;
  const auto* at = static_cast<const char*>(payload);
  for (std::size_t i = 0; i + 8 <= bytes; i += 8) {
    std::uint64_t word = 0;
    std::memcpy(&word, at + i, 8);
    hash = (hash ^ word) * 0x100000001b3u;
  }
  return hash;
}

Status io_error(const std::string& path, const char* attempt) {
  return {StatusCode::kIo, fmt::format("cannot {} {}: {}", attempt, path, std::strerror(errno))};
}

}  // namespace

Status save(const PackedWeight& weight, const std::string& path) {
  const auto on_cpu = copy_to(weight, Device::cpu());
  if (!on_cpu.ok()) return on_cpu.status();
  PackedHeader header = weight.header();
  header.checksum = checksum(on_cpu->weights(), header.payload_bytes());

  const std::string unfinished = path + ".partial";
  std::ofstream file(unfinished, std::ios::binary | std::ios::trunc);
  file.write(reinterpret_cast<const char*>(&header), sizeof(header));
  file.write(static_cast<const char*>(on_cpu->weights()), static_cast<std::streamsize>(header.payload_bytes()));
  file.close();
  if (!file) {
    const Status status = io_error(unfinished, "write");
    std::remove(unfinished.c_str());
    return status;
  }
  if (std::rename(unfinished.c_str(), path.c_str()) != 0) {
    const Status status = io_error(path, "write");
    std::remove(unfinished.c_str());
    return status;
  }
  return {};
}

Result<PackedWeight> load(const std::string& path, Device device) {
  std::ifstream file(path, std::ios::binary | std::ios::ate);
  if (!file) return io_error(path, "read");
  const auto size = static_cast<std::uint64_t>(file.tellg());
  file.seekg(0);
  PackedHeader header;
  if (size < sizeof(header) || !file.read(reinterpret_cast<char*>(&header), sizeof(header))) {
    return Status(StatusCode::kCorrupt,
                  fmt::format("{} has {} bytes, fewer than a PackedWeight's header of {}; save it again", path, size,
                              sizeof(header)));
  }
  const Status status = validate::header(header);
  if (!status.ok()) return Status(status.code(), path + ": " + status.message());
  if (size != sizeof(header) + header.payload_bytes()) {
    return Status(StatusCode::kCorrupt, fmt::format("{} has {} bytes but its header promises {}; save it again", path,
                                                    size, sizeof(header) + header.payload_bytes()));
  }
  const auto storage = memory::allocate(Device::cpu(), header.payload_bytes());
  if (!storage.ok()) return storage.status();
  if (!file.read(static_cast<char*>(storage->get()), static_cast<std::streamsize>(header.payload_bytes())))
    return io_error(path, "read");
  if (checksum(storage->get(), header.payload_bytes()) != header.checksum) {
    return Status(StatusCode::kCorrupt, path + " does not match its checksum; save it again");
  }
  const PackedWeight weight(header, Device::cpu(), *storage);
  if (const Status order = validate::permutation(weight.permutation(), header.k); !order.ok()) {
    return Status(order.code(), path + ": " + order.message());
  }
  return copy_to(weight, device);
}

}  // namespace machete
