// Checkpoints of other tools, made here element by element from what their formats say of an element's place.
#include "formats/foreign.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "formats/safetensors.h"
#include "tests/cpu/folder.h"

namespace machete::formats {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

/// A quantised layer as numbers.
struct Numbers {
  std::int64_t n, k, group_size;
  std::vector<int> codes;             // [N, K], 0...15
  std::vector<int> zeros;             // [groups, N]
  std::vector<std::uint16_t> scales;  // [groups, N], bits

  std::int64_t groups() const { return (k + group_size - 1) / group_size; }
  int code(std::int64_t row, std::int64_t column) const { return codes[static_cast<std::size_t>(row * k + column)]; }
};

Numbers numbers(std::int64_t n, std::int64_t k, std::int64_t group_size, bool symmetric) {
  std::mt19937 random(static_cast<unsigned>(n * 31 + k));
  Numbers x{n, k, group_size, {}, {}, {}};
  for (std::int64_t i = 0; i < n * k; ++i) x.codes.push_back(static_cast<int>(random() % 16));
  for (std::int64_t i = 0; i < x.groups() * n; ++i) {
    x.zeros.push_back(symmetric ? 8 : static_cast<int>(1 + random() % 15));
    x.scales.push_back(static_cast<std::uint16_t>(0x2000 + random() % 0x800));
  }
  return x;
}

/// Tensors by name, on their way into a file.
class File {
 public:
  template <class T>
  void add(const std::string& name, const char* dtype, std::vector<std::int64_t> shape, const std::vector<T>& values) {
    infos_.push_back({name, dtype, std::move(shape)});
    auto& bytes = bytes_[name];
    bytes.resize(values.size() * sizeof(T));
    std::memcpy(bytes.data(), values.data(), bytes.size());
  }
  void write(const std::string& path) const {
    auto writer = SafetensorsWriter::create(path, infos_, {});
    ASSERT_TRUE(writer.ok()) << writer.status().message();
    for (const auto& [name, bytes] : bytes_) ASSERT_TRUE(writer->write(name, bytes.data(), bytes.size()).ok());
    ASSERT_TRUE(writer->commit({}).ok());
  }

 private:
  std::vector<TensorInfo> infos_;
  std::map<std::string, std::vector<std::uint8_t>> bytes_;
};

void put(std::vector<std::uint32_t>& words, std::int64_t word, std::int64_t place, int value) {
  words[static_cast<std::size_t>(word)] |= static_cast<std::uint32_t>(value) << (4 * place);
}

/// k runs down a column of int32, eight to a word; zero points along N, one less than they mean in version 1.
void add_gptq(File& file, const std::string& name, const Numbers& x, bool v2) {
  std::vector<std::uint32_t> qweight(static_cast<std::size_t>(x.k / 8 * x.n));
  std::vector<std::uint32_t> qzeros(static_cast<std::size_t>(x.groups() * x.n / 8));
  std::vector<std::int32_t> g_idx;
  for (std::int64_t n = 0; n < x.n; ++n) {
    for (std::int64_t k = 0; k < x.k; ++k) put(qweight, k / 8 * x.n + n, k % 8, x.code(n, k));
    for (std::int64_t g = 0; g < x.groups(); ++g) {
      put(qzeros, g * (x.n / 8) + n / 8, n % 8, x.zeros[static_cast<std::size_t>(g * x.n + n)] - (v2 ? 0 : 1));
    }
  }
  for (std::int64_t k = 0; k < x.k; ++k) g_idx.push_back(static_cast<std::int32_t>(k / x.group_size));
  file.add(name + ".qweight", "I32", {x.k / 8, x.n}, qweight);
  file.add(name + ".qzeros", "I32", {x.groups(), x.n / 8}, qzeros);
  file.add(name + ".scales", "F16", {x.groups(), x.n}, x.scales);
  file.add(name + ".g_idx", "I32", {x.k}, g_idx);
}

/// n runs along a row of int32; nibble i of a word holds column 0, 2, 4, 6, 1, 3, 5, 7 of its eight.
void add_awq(File& file, const std::string& name, const Numbers& x) {
  const auto nibble_of = [](std::int64_t column) { return column % 2 == 0 ? column / 2 : 4 + column / 2; };
  std::vector<std::uint32_t> qweight(static_cast<std::size_t>(x.k * x.n / 8));
  std::vector<std::uint32_t> qzeros(static_cast<std::size_t>(x.groups() * x.n / 8));
  for (std::int64_t n = 0; n < x.n; ++n) {
    for (std::int64_t k = 0; k < x.k; ++k) put(qweight, k * (x.n / 8) + n / 8, nibble_of(n % 8), x.code(n, k));
    for (std::int64_t g = 0; g < x.groups(); ++g) {
      put(qzeros, g * (x.n / 8) + n / 8, nibble_of(n % 8), x.zeros[static_cast<std::size_t>(g * x.n + n)]);
    }
  }
  file.add(name + ".qweight", "I32", {x.k, x.n / 8}, qweight);
  file.add(name + ".qzeros", "I32", {x.groups(), x.n / 8}, qzeros);
  file.add(name + ".scales", "F16", {x.groups(), x.n}, x.scales);
}

/// k runs along a row of int32, values plus 8; scales [N, groups]; zero points, plus 8, along N.
void add_pack_quantized(File& file, const std::string& name, const Numbers& x, bool zero_points) {
  const std::int64_t columns = (x.k + 7) / 8;
  const std::int64_t zero_rows = (x.n + 7) / 8;
  std::vector<std::uint32_t> packed(static_cast<std::size_t>(x.n * columns));
  std::vector<std::uint32_t> zeros(static_cast<std::size_t>(zero_rows * x.groups()));
  std::vector<std::uint16_t> scales(static_cast<std::size_t>(x.n * x.groups()));
  for (std::int64_t n = 0; n < x.n; ++n) {
    for (std::int64_t k = 0; k < x.k; ++k) put(packed, n * columns + k / 8, k % 8, x.code(n, k));
    for (std::int64_t g = 0; g < x.groups(); ++g) {
      const auto from = static_cast<std::size_t>(g * x.n + n);
      scales[static_cast<std::size_t>(n * x.groups() + g)] = x.scales[from];
      put(zeros, n / 8 * x.groups() + g, n % 8, x.zeros[from]);
    }
  }
  file.add(name + ".weight_packed", "I32", {x.n, columns}, packed);
  file.add(name + ".weight_scale", "BF16", {x.n, x.groups()}, scales);
  file.add(name + ".weight_shape", "I64", {2}, std::vector<std::int64_t>{x.n, x.k});
  if (zero_points) file.add(name + ".weight_zero_point", "I32", {zero_rows, x.groups()}, zeros);
}

class Foreign : public tests::FolderTest {
 protected:
  Checkpoint write(const File& file) const {
    file.write((folder_ / "model.safetensors").string());
    const Result<Checkpoint> checkpoint = Checkpoint::open((folder_ / "model.safetensors").string());
    EXPECT_TRUE(checkpoint.ok()) << checkpoint.status().message();
    return *checkpoint;
  }
  void config(const std::string& text) const { std::ofstream(folder_ / "config.json") << text; }

  std::vector<ForeignLayer> found(const Checkpoint& checkpoint) const {
    const auto layers = find_foreign_layers(checkpoint);
    EXPECT_TRUE(layers.ok()) << layers.status().message();
    return layers.ok() ? *layers : std::vector<ForeignLayer>{};
  }
  std::string refusal(const File& file) const {
    const auto layers = find_foreign_layers(write(file));
    EXPECT_FALSE(layers.ok());
    return layers.ok() ? "" : layers.status().message();
  }
};

void expect_same(const reference::QuantizedTensor& weight, const Numbers& x, bool symmetric) {
  ASSERT_EQ(weight.n, x.n);
  ASSERT_EQ(weight.k, x.k);
  const std::int64_t row_bytes = (x.k + 1) / 2;
  for (std::int64_t n = 0; n < x.n; ++n) {
    for (std::int64_t k = 0; k < x.k; ++k) {
      const std::uint8_t byte = weight.qweight[static_cast<std::size_t>(n * row_bytes + k / 2)];
      ASSERT_EQ(k % 2 == 0 ? byte & 15 : byte >> 4, x.code(n, k)) << "row " << n << ", column " << k;
    }
  }
  ASSERT_EQ(weight.scales.size(), x.scales.size() * 2);
  EXPECT_EQ(std::memcmp(weight.scales.data(), x.scales.data(), weight.scales.size()), 0);
  if (symmetric) {
    EXPECT_EQ(weight.type, WeightType::kU4b8);
    EXPECT_TRUE(weight.zero_points.empty());
  } else {
    EXPECT_EQ(weight.type, WeightType::kU4);
    EXPECT_EQ(std::vector<int>(weight.zero_points.begin(), weight.zero_points.end()), x.zeros);
  }
}

TEST_F(Foreign, EveryFormatIsReadBitForBit) {
  for (const bool symmetric : {true, false}) {
    for (const ForeignFormat format :
         {ForeignFormat::kGptq, ForeignFormat::kGptqV2, ForeignFormat::kAwq, ForeignFormat::kPackQuantized}) {
      const Numbers x = numbers(40, 192, 64, symmetric);
      File file;
      const bool v2 = format == ForeignFormat::kGptqV2;
      config(fmt::format(R"({{"quantization_config": {{"checkpoint_format": "{}"}}}})", v2 ? "gptq_v2" : "gptq"));
      switch (format) {
        case ForeignFormat::kAwq:
          add_awq(file, "a.proj", x);
          break;
        case ForeignFormat::kPackQuantized:
          add_pack_quantized(file, "a.proj", x, !symmetric);
          break;
        default:
          add_gptq(file, "a.proj", x, v2);
      }
      const Checkpoint checkpoint = write(file);
      const auto layers = found(checkpoint);
      ASSERT_EQ(layers.size(), 1u);
      EXPECT_EQ(layers[0].name, "a.proj");
      EXPECT_EQ(layers[0].format, format);
      EXPECT_EQ(layers[0].bits, 4);
      EXPECT_EQ(layers[0].group_size, 64);
      EXPECT_EQ(layers[0].obstacle, "");
      expect_same(read_foreign_layer(checkpoint, layers[0]), x, symmetric);
    }
  }
}

TEST_F(Foreign, PackQuantizedNeedsNoMultiplesOfEight) {
  const Numbers x = numbers(13, 101, 101, true);
  File file;
  add_pack_quantized(file, "odd", x, false);
  const Checkpoint checkpoint = write(file);
  const auto layers = found(checkpoint);
  ASSERT_EQ(layers.size(), 1u);
  EXPECT_EQ(layers[0].group_size, -1);
  expect_same(read_foreign_layer(checkpoint, layers[0]), x, true);
}

TEST_F(Foreign, SaysWhatItCannotRead) {
  const Numbers x = numbers(16, 128, 32, true);
  File file;
  add_gptq(file, "plain", x, false);
  const Numbers small = numbers(16, 64, 8, true);
  add_gptq(file, "small_groups", small, false);
  std::vector<std::int32_t> g_idx;  // act-order: one k belongs to a later group
  for (std::int64_t k = 0; k < x.k; ++k) g_idx.push_back(static_cast<std::int32_t>((k == 3 ? 40 : k) / 32));
  File others;
  add_awq(others, "awq", x);
  others.add("g.qweight", "I32", {16, 16}, std::vector<std::uint32_t>(256));
  others.add("g.qzeros", "I32", {4, 2}, std::vector<std::uint32_t>(8));
  others.add("g.scales", "F16", {4, 16}, std::vector<std::uint16_t>(64));
  others.add("g.g_idx", "I32", {128}, g_idx);
  others.add("eight.qweight", "I32", {32, 16}, std::vector<std::uint32_t>(512));
  others.add("eight.qzeros", "I32", {4, 4}, std::vector<std::uint32_t>(16));
  others.add("eight.scales", "F16", {4, 16}, std::vector<std::uint16_t>(64));
  std::map<std::string, std::string> obstacles;
  for (const ForeignLayer& layer : found(write(others))) obstacles[layer.name] = layer.obstacle;
  EXPECT_EQ(obstacles["awq"], "");
  EXPECT_THAT(obstacles["g"], HasSubstr("act-order"));
  EXPECT_THAT(obstacles["eight"], HasSubstr("8-bit"));
  for (const ForeignLayer& layer : found(write(file))) {
    if (layer.name == "small_groups") {
      EXPECT_THAT(layer.obstacle, HasSubstr("groups of 8"));
    } else {
      EXPECT_EQ(layer.obstacle, "") << layer.name;
    }
  }
}

TEST_F(Foreign, NamesTheTensorThatContradictsTheOthers) {
  {
    File file;
    file.add("x.qweight", "I32", {16, 16}, std::vector<std::uint32_t>(256));
    file.add("x.scales", "F16", {4, 16}, std::vector<std::uint16_t>(64));
    EXPECT_THAT(refusal(file), HasSubstr("\"x.qzeros\" is missing"));
    file.add("x.qzeros", "I32", {5, 2}, std::vector<std::uint32_t>(10));
    EXPECT_THAT(refusal(file),
                HasSubstr("\"x.qzeros\" has shape [5, 2]; by the other tensors of its layer it must be [4, 2]"));
  }
  {
    File file;
    file.add("x.weight_packed", "I32", {16, 16}, std::vector<std::uint32_t>(256));
    file.add("x.weight_scale", "F16", {16, 2}, std::vector<std::uint16_t>(32));
    EXPECT_THAT(refusal(file), HasSubstr("\"x.weight_shape\" is missing"));
    file.add("x.weight_shape", "I64", {2}, std::vector<std::int64_t>{16, std::int64_t{1} << 40});
    EXPECT_THAT(refusal(file), HasSubstr("from 1 to 2^31"));
  }
  {
    File file;
    file.add("x.weight_packed", "I32", {16, 16}, std::vector<std::uint32_t>(256));
    file.add("x.weight_scale", "F16", {16, 2}, std::vector<std::uint16_t>(32));
    file.add("x.weight_shape", "I64", {2}, std::vector<std::int64_t>{17, 128});
    EXPECT_THAT(refusal(file), HasSubstr("\"x.weight_packed\" has shape [16, 16]"));
  }
  config("{ broken");
  File file;
  add_gptq(file, "x", numbers(16, 64, 32, true), false);
  EXPECT_THAT(refusal(file), HasSubstr("config.json"));
}

// A float checkpoint, and one of ours, hold nothing foreign.
TEST_F(Foreign, LeavesOtherTensorsAlone) {
  File file;
  file.add("a.weight", "F16", {16, 16}, std::vector<std::uint16_t>(256));
  file.add("b.qweight", "U8", {16, 8}, std::vector<std::uint8_t>(128));
  file.add("b.scales", "BF16", {1, 16}, std::vector<std::uint16_t>(16));
  EXPECT_TRUE(found(write(file)).empty());
}

}  // namespace
}  // namespace machete::formats
