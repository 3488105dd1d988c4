// Prepacking on the CPU: bits survive, padding is zero, scales lie where the kernels look, and what cannot be packed is
// refused.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <limits>
#include <random>
#include <vector>

#include "kernels/prepack/host.h"
#include "machete/weight.h"
#include "reference/numeric.h"
#include "tests/cpu/reference_case.h"

namespace machete {
namespace {

using ::testing::HasSubstr;

struct Weight {
  QuantizedWeight view;
  std::vector<std::uint8_t> qweight;
  std::vector<std::uint16_t> scales;
};

Weight random_weight(std::int64_t n, std::int64_t k, std::int64_t group_size, unsigned seed = 1) {
  std::mt19937 random(seed);
  Weight w;
  w.view.n = n;
  w.view.k = k;
  w.view.group_size = group_size;
  w.qweight.resize(static_cast<std::size_t>(n * ((k + 1) / 2)));
  for (std::size_t i = 0; i < w.qweight.size(); ++i) {
    const bool last = (i + 1) % static_cast<std::size_t>((k + 1) / 2) == 0;
    w.qweight[i] = static_cast<std::uint8_t>(random() & (last && k % 2 == 1 ? 0x0fu : 0xffu));
  }
  w.scales.resize(static_cast<std::size_t>(w.view.groups() * n));
  for (auto& scale : w.scales) scale = static_cast<std::uint16_t>(0x3c00u + random() % 0x80u);  // bf16, near 0.01
  w.view.qweight = w.qweight.data();
  w.view.scales = w.scales.data();
  return w;
}

PrepackOptions on_cpu() {
  PrepackOptions options;
  options.device = Device::cpu();
  return options;
}

std::string error_of(const QuantizedWeight& weight, PrepackOptions options = on_cpu()) {
  const auto packed = prepack(weight, options);
  return packed.ok() ? "accepted" : packed.status().message();
}

class PrepackShapes : public ::testing::TestWithParam<std::tuple<int, int, int>> {};

TEST_P(PrepackShapes, UnpackGivesTheOriginalBits) {
  const auto [n, k, group_size] = GetParam();
  const Weight w = random_weight(n, k, group_size);
  const auto packed = prepack(w.view, on_cpu());
  ASSERT_TRUE(packed.ok()) << packed.status().message();
  const auto unpacked = unpack(*packed);
  ASSERT_TRUE(unpacked.ok());
  EXPECT_EQ(unpacked->qweight, w.qweight);
  ASSERT_EQ(unpacked->scales.size(), w.scales.size() * 2);
  EXPECT_EQ(std::memcmp(unpacked->scales.data(), w.scales.data(), unpacked->scales.size()), 0);
}

TEST_P(PrepackShapes, PaddingIsZeroBytes) {
  const auto [n, k, group_size] = GetParam();
  Weight w = random_weight(n, k, group_size);
  std::fill(w.qweight.begin(), w.qweight.end(), std::uint8_t{0x88});  // 8 is the value 0, stored as 0
  if (k % 2 == 1) {
    const auto row = static_cast<std::size_t>((k + 1) / 2);
    for (std::size_t last = row - 1; last < w.qweight.size(); last += row) w.qweight[last] = 0x08;
  }
  const auto packed = prepack(w.view, on_cpu());
  ASSERT_TRUE(packed.ok());
  const auto* bytes = static_cast<const std::uint8_t*>(packed->weights());
  for (std::uint64_t i = 0; i < packed->header().weight_bytes; ++i) ASSERT_EQ(bytes[i], 0) << "byte " << i;
}

TEST_P(PrepackShapes, EveryElementFindsItsScale) {
  const auto [n, k, group_size] = GetParam();
  const Weight w = random_weight(n, k, group_size);
  const auto packed = prepack(w.view, on_cpu());
  ASSERT_TRUE(packed.ok());
  const packing::Shape shape = packing::shape_of(n, k, group_size);
  const auto* scales = static_cast<const std::uint16_t*>(packed->scales());
  for (std::int64_t row = 0; row < n; ++row) {
    for (std::int64_t i = 0; i < k; ++i) {
      const std::int64_t group = group_size < 0 ? 0 : i / group_size;
      ASSERT_EQ(scales[packing::scale_index(shape, row, i)], w.scales[static_cast<std::size_t>(group * n + row)]);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Shapes, PrepackShapes,
                         ::testing::Combine(::testing::Values(1, 17, 64, 70), ::testing::Values(1, 15, 64, 100, 576),
                                            ::testing::Values(-1, 16, 32, 48, 64, 96, 128, 144, 192)));

TEST(Prepack, EveryTypeComesBackBitForBit) {
  for (const reference::Kind& kind : reference::all_kinds()) {
    for (const int n : {1, 17, 70}) {
      for (const int k : {1, 31, 33, 100, 576}) {
        for (const int group_size : {-1, 16, 32, 48, 64, 144}) {
          for (const int activation_bits : {16, 8}) {
            if (!validate::activation_bits(activation_bits, kind.type).ok()) continue;
            const auto w = reference::random_weight(n, k, group_size, 5, kind);
            PrepackOptions options = on_cpu();
            options.activation_bits = activation_bits;
            const auto packed = prepack(w.view, options);
            ASSERT_TRUE(packed.ok()) << packed.status().message();
            const auto unpacked = unpack(*packed);
            ASSERT_TRUE(unpacked.ok());
            ASSERT_EQ(unpacked->qweight, w.qweight) << name_of(kind) << ", K=" << k << ", " << activation_bits;
            ASSERT_EQ(unpacked->scales, w.scales);
            ASSERT_EQ(unpacked->zero_points.empty(), !has_zero_points(kind.type));
            for (std::int64_t i = 0; has_zero_points(kind.type) && i < w.view.groups() * n; ++i) {
              ASSERT_EQ(reference::to_float(unpacked->zero_point_type, unpacked->zero_points.data(), i),
                        reference::to_float(kind.zero_point_type, w.zero_points.data(), i));
            }
          }
        }
      }
    }
  }
}

TEST(Prepack, RoundsZeroPointsOnlyOnRequest) {
  auto w = reference::random_weight(1, 16, 16, 5, {WeightType::kU4, DataType::kF32});
  reference::from_float(DataType::kF32, w.zero_points.data(), 0, 7.3f);
  EXPECT_THAT(error_of(w.view), HasSubstr("zero_points[0, 0]=7.3 has no exact bf16 value"));
  PrepackOptions options = on_cpu();
  options.round_scales = true;
  const auto packed = prepack(w.view, options);
  ASSERT_TRUE(packed.ok());
  EXPECT_NEAR(reference::to_float(DataType::kBf16, packed->zero_points(), 0), 7.3f, 0.02f);
  reference::from_float(DataType::kF32, w.zero_points.data(), 0, std::numeric_limits<float>::infinity());
  EXPECT_THAT(error_of(w.view, options), HasSubstr("zero_points[0, 0]=inf must be finite"));
}

TEST(Prepack, RefusesScalesOfEightBitsThatDoNotFit) {
  auto w = reference::random_weight(1, 32, 32, 5, {WeightType::kE2m1});
  w.view.scale_type = DataType::kE8m0;
  w.scales[0] = 255;
  EXPECT_THAT(error_of(w.view), HasSubstr("scales[0, 0]=nan must be finite"));
  w.scales[0] = 0;  // 2^-127: a subnormal of bf16, nothing of f16
  EXPECT_EQ(error_of(w.view), "accepted");
  PrepackOptions options = on_cpu();
  options.scale_type = DataType::kF16;
  EXPECT_THAT(error_of(w.view, options), HasSubstr("no exact f16 value"));
  w.scales[0] = 254;
  EXPECT_THAT(error_of(w.view, options), HasSubstr("beyond the range of f16"));
  w.view.tensor_scale = 0;
  EXPECT_THAT(error_of(w.view), HasSubstr("tensor_scale=0 must be finite and not 0"));
}

TEST(Prepack, RefusesGroupsThatAreNotTheirSize) {
  auto w = reference::random_weight(4, 64, 32, 5);
  std::vector<std::int32_t> g_idx(64);
  for (std::size_t i = 0; i < 64; ++i) g_idx[i] = static_cast<std::int32_t>(i % 2);
  w.view.g_idx = g_idx.data();
  EXPECT_EQ(error_of(w.view), "accepted");
  g_idx[5] = 0;
  EXPECT_THAT(error_of(w.view), HasSubstr("g_idx has group 0 too often; each must have 32 k's"));
  g_idx[5] = 2;
  EXPECT_THAT(error_of(w.view), HasSubstr("g_idx[5]=2 must be at least 0 and less than the 2 groups"));
  g_idx[5] = -1;
  EXPECT_THAT(error_of(w.view), HasSubstr("g_idx[5]=-1"));
}

TEST(Prepack, StoresTwosComplementOfTheValue) {
  Weight w = random_weight(16, 64, 64);
  for (int q = 0; q < 16; ++q) {
    std::fill(w.qweight.begin(), w.qweight.end(), static_cast<std::uint8_t>(q | q << 4));
    const auto packed = prepack(w.view, on_cpu());
    ASSERT_TRUE(packed.ok());
    const int stored = *static_cast<const std::uint8_t*>(packed->weights()) & 15;
    EXPECT_EQ((stored ^ 8) - 8, q - 8);
  }
}

TEST(Prepack, RefusesWhatBreaksARule) {
  const Weight good = random_weight(64, 128, 64);
  QuantizedWeight w = good.view;
  w.n = 0;
  EXPECT_THAT(error_of(w), HasSubstr("N=0 must be at least 1"));
  w = good.view;
  w.k = -5;
  EXPECT_THAT(error_of(w), HasSubstr("K=-5"));
  w = good.view;
  w.k = std::int64_t{1} << 40;
  EXPECT_THAT(error_of(w), HasSubstr("at most 2^30"));
  w = good.view;
  w.group_size = 20;
  EXPECT_THAT(error_of(w), HasSubstr("group_size=20 must be -1"));
  w = good.view;
  w.qweight = nullptr;
  EXPECT_THAT(error_of(w), HasSubstr("qweight is null"));
  w = good.view;
  w.scales = nullptr;
  EXPECT_THAT(error_of(w), HasSubstr("scales is null"));
  w = good.view;
  w.scales = reinterpret_cast<const char*>(good.scales.data()) + 1;
  EXPECT_THAT(error_of(w), HasSubstr("multiple of 2 bytes"));
  w = good.view;
  w.zero_points = good.qweight.data();
  EXPECT_THAT(error_of(w), HasSubstr("zero_points must be null"));
  w = good.view;
  w.type = WeightType::kU4;
  EXPECT_THAT(error_of(w), HasSubstr("zero_points is null"));
  w.zero_points = reinterpret_cast<const char*>(good.scales.data()) + 1;
  w.zero_point_type = DataType::kF16;
  EXPECT_THAT(error_of(w), HasSubstr("multiple of 2 bytes"));
  w.zero_point_type = static_cast<DataType>(9);
  EXPECT_THAT(error_of(w), HasSubstr("zero_point_type 9"));
  w = good.view;
  w.scale_type = DataType::kU8;
  EXPECT_THAT(error_of(w), HasSubstr("scales of type 3"));
  w = good.view;
  w.type = static_cast<WeightType>(77);
  EXPECT_THAT(error_of(w), HasSubstr("weight type 77"));
  PrepackOptions options = on_cpu();
  options.scale_type = DataType::kF32;
  EXPECT_THAT(error_of(good.view, options), HasSubstr("scale_type=f32"));
  options = on_cpu();
  options.device.ordinal = 3;
  EXPECT_THAT(error_of(good.view, options), HasSubstr("must be 0"));
}

TEST(Prepack, RefusesScalesThatAreNotFiniteBeforeWriting) {
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    Weight w = random_weight(64, 128, 64);
    reference::from_float(DataType::kBf16, w.scales.data(), 70, bad);
    const auto header = packed_header(w.view, DataType::kBf16);
    ASSERT_TRUE(header.ok());
    const std::size_t bytes = header->payload_bytes();
    std::vector<std::uint8_t> memory(bytes + 128, 0xa5);
    void* storage = memory.data();
    std::size_t space = memory.size();
    ASSERT_NE(std::align(128, bytes, storage, space), nullptr);
    const auto packed = prepack_into(w.view, on_cpu(), storage, bytes);
    ASSERT_FALSE(packed.ok());
    EXPECT_THAT(packed.status().message(), HasSubstr("scales[1, 6]"));
    for (const std::uint8_t byte : memory) ASSERT_EQ(byte, 0xa5);
  }
}

// Kernels fold them into the decode of bf16 weights.
TEST(Prepack, RefusesScalesTooLargeToFold) {
  Weight w = random_weight(1, 16, 16);
  w.view.scale_type = DataType::kF32;
  std::vector<float> scale = {-0x1p19f};
  w.view.scales = scale.data();
  EXPECT_THAT(error_of(w.view), HasSubstr("scales[0, 0]=-524288 must be less than 524288 in magnitude in bf16"));
  scale[0] = -0x1.fep18f;
  EXPECT_TRUE(prepack(w.view, on_cpu()).ok());
  w.view.type = WeightType::kE2m1;
  scale[0] = 0x1p100f;
  EXPECT_TRUE(prepack(w.view, on_cpu()).ok()) << "e2m1 takes every power of two";
}

TEST(Prepack, RoundsScalesOnlyOnRequest) {
  Weight w = random_weight(1, 16, 16);
  const float scale = 1.0f + 1.0f / 512;  // exact in f16, not in bf16
  w.view.scale_type = DataType::kF16;
  reference::from_float(DataType::kF16, w.scales.data(), 0, scale);
  EXPECT_THAT(error_of(w.view), HasSubstr("no exact bf16 value"));
  PrepackOptions options = on_cpu();
  options.round_scales = true;
  const auto packed = prepack(w.view, options);
  ASSERT_TRUE(packed.ok());
  EXPECT_EQ(reference::to_float(DataType::kBf16, packed->scales(), 0), 1.0f);
  options.round_scales = false;
  options.scale_type = DataType::kF16;
  EXPECT_TRUE(prepack(w.view, options).ok());
}

TEST(Prepack, StorageMustFit) {
  const Weight w = random_weight(64, 128, 64);
  alignas(128) static char storage[8192];
  EXPECT_THAT(prepack_into(w.view, on_cpu(), storage, 64).status().message(), HasSubstr("must hold"));
  EXPECT_THAT(prepack_into(w.view, on_cpu(), storage + 8, 8000).status().message(), HasSubstr("multiple of 128"));
  EXPECT_THAT(prepack_into(w.view, on_cpu(), nullptr, 8000).status().message(), HasSubstr("storage is null"));
  EXPECT_TRUE(prepack_into(w.view, on_cpu(), storage, sizeof(storage)).ok());
}

class WeightFile : public ::testing::Test {
 protected:
  void SetUp() override {
    path_ = ::testing::TempDir() + "machete_weight_file_" + std::to_string(getpid());
    const Weight w = random_weight(70, 100, 48);
    auto packed = prepack(w.view, on_cpu());
    ASSERT_TRUE(packed.ok());
    ASSERT_TRUE(save(*packed, path_).ok());
    packed_ = *packed;
    std::ifstream file(path_, std::ios::binary);
    bytes_.assign(std::istreambuf_iterator<char>(file), {});
  }
  void TearDown() override { std::remove(path_.c_str()); }

  void write(const std::string& bytes) const {
    std::ofstream(path_, std::ios::binary).write(bytes.data(), static_cast<long>(bytes.size()));
  }
  std::string error() const {
    const auto loaded = load(path_, Device::cpu());
    return loaded.ok() ? "accepted" : loaded.status().message();
  }

  std::string path_;
  std::string bytes_;
  PackedWeight packed_;
};

TEST_F(WeightFile, ComesBackBitForBit) {
  const auto loaded = load(path_, Device::cpu());
  ASSERT_TRUE(loaded.ok()) << loaded.status().message();
  EXPECT_EQ(loaded->header().n, 70);
  EXPECT_EQ(loaded->header().group_size, 48);
  EXPECT_EQ(std::memcmp(loaded->weights(), packed_.weights(), packed_.header().payload_bytes()), 0);
}

TEST_F(WeightFile, OrdersForEightBitsComeBackToo) {
  for (const reference::Kind& kind : reference::all_kinds()) {
    if (!validate::activation_bits(8, kind.type).ok()) continue;
    for (const bool act_order : {false, true}) {
      auto w = reference::random_weight(70, 100, 32, 5, kind);
      std::vector<std::int32_t> g_idx(100);
      for (std::size_t i = 0; i < 100; ++i) g_idx[i] = static_cast<std::int32_t>(i < 96 ? i % 3 : 3);
      if (act_order) w.view.g_idx = g_idx.data();
      PrepackOptions options = on_cpu();
      options.activation_bits = 8;
      const auto packed = prepack(w.view, options);
      ASSERT_TRUE(packed.ok()) << packed.status().message();
      ASSERT_TRUE(save(*packed, path_).ok());
      const auto loaded = load(path_, Device::cpu());
      ASSERT_TRUE(loaded.ok()) << loaded.status().message();
      EXPECT_EQ(loaded->header().activation_bits, 8);
      const auto unpacked = unpack(*loaded);
      ASSERT_TRUE(unpacked.ok());
      EXPECT_EQ(unpacked->qweight, w.qweight) << name_of(kind);
      EXPECT_EQ(unpacked->scales, w.scales);
      EXPECT_EQ(unpacked->g_idx, act_order ? g_idx : std::vector<std::int32_t>());
      // It is no weight for 16-bit activations, whatever the bytes say.
      Problem problem = reference::problem_of(1, w.view, DataType::kBf16, DataType::kBf16);
      EXPECT_THAT(validate::matches(loaded->header(), problem).message(), HasSubstr("packed for 8-bit activations"));
    }
  }
}

TEST_F(WeightFile, EveryTruncationIsAnError) {
  for (std::size_t size = 0; size < bytes_.size(); size += size < 140 ? 1 : 97) {
    write(bytes_.substr(0, size));
    EXPECT_NE(error(), "accepted") << size << " bytes";
  }
}

TEST_F(WeightFile, EveryDamagedByteIsAnError) {
  for (std::size_t i = 0; i < bytes_.size(); i += i < 72 ? 1 : 13) {
    if (i == 15) continue;             // a reserved byte
    if (i >= 64 && i < 128) continue;  // reserved bytes
    std::string damaged = bytes_;
    damaged[i] = static_cast<char>(damaged[i] ^ 0x41);
    write(damaged);
    EXPECT_NE(error(), "accepted") << "byte " << i;
  }
}

// The file of a weight that save() refuses.
std::string file_of(const PackedWeight& weight) {
  PackedHeader header = weight.header();
  const std::string payload(static_cast<const char*>(weight.weights()), header.payload_bytes());
  header.checksum = 0xcbf29ce484222325u;  // FNV-1a over words
  for (std::size_t at = 0; at < payload.size(); at += 8) {
    std::uint64_t word = 0;
    std::memcpy(&word, payload.data() + at, 8);
    header.checksum = (header.checksum ^ word) * 0x100000001b3u;
  }
  return std::string(reinterpret_cast<const char*>(&header), sizeof(header)) + payload;
}

// A file may match its checksum and still name activations that there are not.
TEST_F(WeightFile, AnOrderThatIsNoneIsRefused) {
  auto w = reference::random_weight(16, 64, 32, 5);
  std::vector<std::int32_t> g_idx(64);
  for (std::size_t i = 0; i < 64; ++i) g_idx[i] = static_cast<std::int32_t>(i % 2);
  w.view.g_idx = g_idx.data();
  const auto good = prepack(w.view, on_cpu());
  ASSERT_TRUE(good.ok());
  ASSERT_TRUE(save(*good, path_).ok());
  ASSERT_TRUE(load(path_, Device::cpu()).ok());
  write(file_of(*good));
  ASSERT_EQ(error(), "accepted");
  for (const std::int32_t bad : {-1, 64, 3}) {
    const auto packed = prepack(w.view, on_cpu());
    const_cast<std::int32_t*>(packed->permutation())[0] = bad;
    for (const Status& status :
         {save(*packed, path_), unpack(*packed).status(), copy_to(*packed, Device::cpu()).status()}) {
      EXPECT_THAT(status.message(), HasSubstr("order of K is damaged")) << bad;
    }
    write(file_of(*packed));
    EXPECT_THAT(error(), HasSubstr("order of K is damaged")) << bad;
  }
}

// Nor may the zero points of a file be other than its header says.
TEST_F(WeightFile, ZeroPointsThatAreNoBytesAreNotUnpacked) {
  const auto w = reference::random_weight(16, 64, 32, 5, {WeightType::kU4});
  for (const float bad : {-1.0f, 256.0f, 7.5f, std::numeric_limits<float>::quiet_NaN()}) {
    const auto packed = prepack(w.view, on_cpu());
    ASSERT_TRUE(packed.ok());
    ASSERT_TRUE(unpack(*packed).ok());
    reference::from_float(DataType::kBf16, const_cast<void*>(packed->zero_points()), 3, bad);
    EXPECT_THAT(unpack(*packed).status().message(), HasSubstr("promises zero points that are bytes")) << bad;
  }
}

TEST_F(WeightFile, ZeroPointsOfATypeThatIsNotPackedAreRefused) {
  const auto w = reference::random_weight(16, 64, 32, 5, {WeightType::kU4, DataType::kBf16});
  const auto packed = prepack(w.view, on_cpu());
  ASSERT_TRUE(packed.ok());
  for (const DataType type : {DataType::kF32, DataType::kF16, static_cast<DataType>(99)}) {
    PackedHeader header = packed->header();
    header.zero_point_type = type;
    EXPECT_THAT(validate::header(header).message(), HasSubstr("are packed as bf16 or u8"));
  }
}

TEST_F(WeightFile, AnotherVersionIsRefused) {
  std::string other = bytes_;
  other[8] = 9;
  write(other);
  EXPECT_THAT(error(), HasSubstr("layout version 9"));
  EXPECT_THAT(error(), HasSubstr("prepack it again"));
}

TEST_F(WeightFile, MissingFilesAndFoldersAreErrors) {
  EXPECT_THAT(load(path_ + ".absent", Device::cpu()).status().message(), HasSubstr("cannot read"));
  EXPECT_THAT(save(packed_, path_ + ".absent/weight").message(), HasSubstr("cannot write"));
}

}  // namespace
}  // namespace machete
