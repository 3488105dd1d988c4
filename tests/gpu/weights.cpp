#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "tests/gpu/workbench.h"

// Prepacking on the GPU: the bytes are the CPU's, and lead back to the original bits.
namespace machete::tests {
namespace {

class Weights : public GpuTest {};

std::vector<unsigned char> payload_of(const PackedWeight& weight) {
  std::vector<unsigned char> bytes(weight.header().payload_bytes());
  require(cudaMemcpy(bytes.data(), weight.weights(), bytes.size(), cudaMemcpyDefault), "read a payload");
  return bytes;
}

PrepackOptions options_for(Device device, DataType scale_type) {
  PrepackOptions options;
  options.device = device;
  options.scale_type = scale_type;
  return options;
}

// The bench's canonical weight in CPU memory.
struct HostCopy {
  std::vector<std::uint8_t> qweight;
  std::vector<std::uint8_t> scales;
  QuantizedWeight view;

  explicit HostCopy(Workbench& workbench)
      : qweight(workbench.qweight().size()), scales(workbench.scales().size()), view(workbench.weight()) {
    require(workbench.qweight().download(qweight.data(), qweight.size()));
    require(workbench.scales().download(scales.data(), scales.size()));
    view.qweight = qweight.data();
    view.scales = scales.data();
  }

  // qweight with the unused last nibble of each row of an odd K as zero.
  std::vector<std::uint8_t> codes() const { return mask(qweight); }
  std::vector<std::uint8_t> mask(std::vector<std::uint8_t> q) const {
    const auto row_bytes = static_cast<std::size_t>((view.k + 1) / 2);
    for (std::size_t i = row_bytes - 1; view.k % 2 != 0 && i < q.size(); i += row_bytes) q[i] &= 0x0F;
    return q;
  }
};

TEST_F(Weights, CpuAndGpuGiveIdenticalBytesAndLeadBack) {
  struct Shape {
    std::int64_t n, k;
  };
  const Shape shapes[] = {{1, 1},    {1, 2},     {15, 17},   {16, 64},   {17, 63},  {64, 64},     {65, 65},
                          {96, 100}, {128, 192}, {129, 577}, {576, 576}, {7, 4099}, {1000, 1000}, {384, 1536}};
  std::uint64_t seed = 17000;
  for (const DataType type : kActivationTypes) {
    for (const Shape& shape : shapes) {
      for (const std::int64_t group_size : {-1, 16, 32, 48, 64, 80, 96, 128, 192, 256, 1024}) {
        Case c{make_problem(type, 1, shape.n, shape.k, group_size)};
        c.weight_seed = ++seed;
        bench().prepare(c);
        ASSERT_TRUE(bench().guards_intact()) << c;
        const HostCopy host(bench());
        const std::vector<unsigned char> from_gpu = payload_of(bench().packed());

        const PackedWeight on_cpu = require(prepack(host.view, options_for(Device::cpu(), type)));
        EXPECT_TRUE(payload_of(on_cpu) == from_gpu) << "the CPU packs other bytes\n  " << c;
        const PackedWeight uploaded = require(prepack(host.view, options_for(Device::cuda(), type)));
        EXPECT_EQ(uploaded.device(), Device::cuda());
        EXPECT_TRUE(payload_of(uploaded) == from_gpu) << "a weight in CPU memory is packed into other bytes\n  " << c;
        const PackedWeight downloaded = require(prepack(bench().weight(), options_for(Device::cpu(), type)));
        EXPECT_TRUE(payload_of(downloaded) == from_gpu) << "a weight in GPU memory is packed into other bytes\n  " << c;
        const PackedWeight copied = require(copy_to(bench().packed(), Device::cpu()));
        EXPECT_EQ(copied.device(), Device::cpu());
        EXPECT_TRUE(payload_of(copied) == from_gpu) << c;

        const UnpackedWeight back = require(unpack(bench().packed()));
        EXPECT_TRUE(host.mask(back.qweight) == host.codes()) << "unpack gives other codes\n  " << c;
        EXPECT_TRUE(back.scales == host.scales) << "unpack gives other scales\n  " << c;
      }
    }
  }
}

// The largest of the suites.
TEST_F(Weights, LargeOnesLeadBackToo) {
  Case c{make_problem(DataType::kBf16, 1, 57344, 8192)};
  bench().prepare(c);
  ASSERT_TRUE(bench().guards_intact()) << c;
  const UnpackedWeight back = require(unpack(bench().packed()));
  const HostCopy host(bench());
  EXPECT_TRUE(back.qweight == host.qweight);
  EXPECT_TRUE(back.scales == host.scales);
}

TEST_F(Weights, SaveAndLoad) {
  for (const DataType type : kActivationTypes) {
    Case c{make_problem(type, 9, 130, 1001, 48)};
    ASSERT_TRUE(bench().try_case(c));
    const std::vector<unsigned char> expected = bench().output();
    const std::vector<unsigned char> payload = payload_of(bench().packed());
    const std::string path = ::testing::TempDir() + "machete_gpu_weight";
    require(save(bench().packed(), path));

    for (const Device device : {Device::cuda(), Device::cpu()}) {
      const PackedWeight loaded = require(load(path, device));
      EXPECT_EQ(loaded.device(), device);
      EXPECT_EQ(loaded.header().n, 130);
      EXPECT_EQ(loaded.header().k, 1001);
      EXPECT_EQ(loaded.header().group_size, 48);
      EXPECT_EQ(loaded.header().scale_type, type);
      EXPECT_TRUE(payload_of(loaded) == payload) << c;
    }
    const PackedWeight loaded = require(load(path, Device::cuda()));
    bench().poison_output(c);
    const Plan plan = require(bench().make_plan(c));
    require(bench().run_plan(plan, loaded));
    EXPECT_TRUE(bench().output() == expected) << "a loaded weight gives another result\n  " << c;

    // One bit of the payload flipped.
    std::ifstream in(path, std::ios::binary);
    std::vector<char> file((std::istreambuf_iterator<char>(in)), std::istreambuf_iterator<char>());
    in.close();
    ASSERT_EQ(file.size(), sizeof(PackedHeader) + payload.size());
    file[sizeof(PackedHeader) + payload.size() / 2] ^= 1;
    std::ofstream out(path, std::ios::binary | std::ios::trunc);
    out.write(file.data(), static_cast<std::streamsize>(file.size()));
    out.close();
    const Result<PackedWeight> corrupt = load(path, Device::cuda());
    EXPECT_FALSE(corrupt.ok());
    EXPECT_EQ(corrupt.status().code(), StatusCode::kCorrupt) << corrupt.status().message();
    std::remove(path.c_str());
  }
}

TEST_F(Weights, EightBitOrdersAreSavedLoadedAndLeadBack) {
  const std::string path = ::testing::TempDir() + "machete_gpu_weight_8";
  const Pair pairs[] = {{WeightType::kU4b8, DataType::kS8},
                        {WeightType::kS8, DataType::kS8},
                        {WeightType::kU4b8, DataType::kE4m3},
                        {WeightType::kE4m3, DataType::kE4m3},
                        {WeightType::kE2m1, DataType::kE4m3}};
  for (const Pair& pair : pairs) {
    if (!served(pair)) continue;
    for (const std::int64_t group_size : {-1, 32, 96}) {
      Case c{make_problem(pair.a_type, 9, 130, 1001, group_size)};
      c.problem.w_type = pair.w_type;
      ASSERT_TRUE(bench().try_case(c));
      const std::vector<unsigned char> expected = bench().output();
      const std::vector<unsigned char> payload = payload_of(bench().packed());
      require(save(bench().packed(), path));
      for (const Device device : {Device::cuda(), Device::cpu()}) {
        const PackedWeight loaded = require(load(path, device));
        EXPECT_EQ(loaded.header().activation_bits, 8);
        EXPECT_TRUE(payload_of(loaded) == payload) << c;
        const HostCopy host(bench());
        const UnpackedWeight back = require(unpack(loaded));
        const bool nibbles = bits_of(pair.w_type) == 4;
        EXPECT_TRUE((nibbles ? host.mask(back.qweight) : back.qweight) == (nibbles ? host.codes() : host.qweight)) << c;
        EXPECT_TRUE(back.scales == host.scales) << c;
      }
      const PackedWeight loaded = require(load(path, Device::cuda()));
      bench().poison_output(c);
      require(bench().run_plan(require(bench().make_plan(c)), loaded));
      EXPECT_TRUE(bench().output() == expected) << "a loaded weight gives another result\n  " << c;
    }
  }
  std::remove(path.c_str());
}

TEST_F(Weights, ScalesThatAreNotFiniteAreRefusedBeforeAnythingIsWritten) {
  for (const DataType type : kActivationTypes) {
    const Case c{make_problem(type, 1, 100, 640, 64)};
    bench().prepare(c);
    HostCopy host(bench());
    testing::DeviceBuffer scales = require(testing::DeviceBuffer::create(host.scales.size()));
    const std::uint64_t bytes = bench().packed().header().payload_bytes();
    testing::DeviceBuffer storage = require(testing::DeviceBuffer::create(bytes, testing::DeviceBuffer::Guard::kZones));
    const std::uint16_t infinity = type == DataType::kBf16 ? 0x7F80 : 0x7C00;
    const auto negative = static_cast<std::uint16_t>(infinity | 0x8000u);
    const auto nan = static_cast<std::uint16_t>(infinity | 0x0001u);
    for (const std::uint16_t value : {infinity, negative, nan}) {
      for (const std::size_t index : {std::size_t{0}, std::size_t{537}, host.scales.size() / 2 - 1}) {
        std::vector<std::uint8_t> bad = host.scales;
        bad[2 * index] = static_cast<std::uint8_t>(value & 0xFFu);
        bad[2 * index + 1] = static_cast<std::uint8_t>(value >> 8);
        require(scales.upload(bad.data(), bad.size()));

        QuantizedWeight on_cpu = host.view;
        on_cpu.scales = bad.data();
        QuantizedWeight on_gpu = bench().weight();
        on_gpu.scales = scales.data();
        for (const QuantizedWeight& weight : {on_cpu, on_gpu}) {
          require(storage.poison());
          const Result<PackedWeight> packed =
              prepack_into(weight, options_for(Device::cuda(), type), storage.data(), storage.size());
          EXPECT_FALSE(packed.ok()) << "scale " << index << " with the bits " << value << " was accepted";
          EXPECT_EQ(packed.status().code(), StatusCode::kInvalidArgument) << packed.status().message();
          std::vector<unsigned char> found(storage.size());
          require(storage.download(found.data(), found.size()));
          EXPECT_TRUE(found == std::vector<unsigned char>(found.size(), 0xFF)) << "the storage was written";
          EXPECT_TRUE(require(storage.guards_intact()));
          EXPECT_FALSE(prepack(weight, options_for(Device::cpu(), type)).ok());
        }
      }
    }
  }
}

TEST_F(Weights, StorageThatDoesNotFitIsRefused) {
  const Case c{make_problem(DataType::kBf16, 1, 100, 640, 64)};
  bench().prepare(c);
  const std::uint64_t bytes = bench().packed().header().payload_bytes();
  testing::DeviceBuffer storage = require(testing::DeviceBuffer::create(bytes + 128));
  const PrepackOptions options = options_for(Device::cuda(), DataType::kBf16);
  EXPECT_FALSE(prepack_into(bench().weight(), options, storage.data(), bytes - 1).ok());
  EXPECT_FALSE(prepack_into(bench().weight(), options, nullptr, bytes).ok());
  EXPECT_FALSE(prepack_into(bench().weight(), options, storage.as<char>() + 64, bytes).ok());
  std::vector<unsigned char> host(bytes + 256);
  const auto address = reinterpret_cast<std::uintptr_t>(host.data());
  EXPECT_FALSE(prepack_into(bench().weight(), options, host.data() + (128 - address % 128) % 128, bytes).ok());
}

}  // namespace
}  // namespace machete::tests
