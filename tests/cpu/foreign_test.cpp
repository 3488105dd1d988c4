// Checkpoints of other tools, made here element by element from what their formats say of an element's place.
#include "formats/foreign.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "formats/safetensors.h"
#include "reference/dequantize.h"
#include "tests/cpu/folder.h"

namespace machete::formats {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

/// A quantised layer as numbers.
struct Numbers {
  int bits;
  std::int64_t n, k, group_size;
  std::vector<int> codes;             // [N, K], counted from the lowest
  std::vector<int> zeros;             // [groups, N]
  std::vector<std::uint16_t> scales;  // [groups, N], bits
  std::vector<std::int32_t> g_idx;    // [K], with act-order

  std::int64_t groups() const { return (k + group_size - 1) / group_size; }
  int code(std::int64_t row, std::int64_t column) const { return codes[static_cast<std::size_t>(row * k + column)]; }
  std::int64_t per_word() const { return 32 / bits; }
  int middle() const { return 1 << (bits - 1); }
};

/// Zero points, where they differ, are 1 ... 2^bits - 1, which every format holds.
Numbers numbers(int bits, std::int64_t n, std::int64_t k, std::int64_t group_size, bool symmetric) {
  std::mt19937 random(static_cast<unsigned>(n * 31 + k));
  Numbers x{bits, n, k, group_size, {}, {}, {}, {}};
  const unsigned codes = 1u << bits;
  for (std::int64_t i = 0; i < n * k; ++i) x.codes.push_back(static_cast<int>(random() % codes));
  for (std::int64_t i = 0; i < x.groups() * n; ++i) {
    x.zeros.push_back(symmetric ? x.middle() : static_cast<int>(1 + random() % (codes - 1)));
    x.scales.push_back(static_cast<std::uint16_t>(0x2000 + random() % 0x800));
  }
  return x;
}

/// The same with groups in an order of their own.
Numbers shuffled(Numbers x) {
  for (std::int64_t k = 0; k < x.k; ++k) x.g_idx.push_back(static_cast<std::int32_t>(k / x.group_size));
  std::shuffle(x.g_idx.begin(), x.g_idx.end(), std::mt19937(7));
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

void put(std::vector<std::uint32_t>& words, int bits, std::int64_t word, std::int64_t place, int value) {
  words[static_cast<std::size_t>(word)] |= static_cast<std::uint32_t>(value) << (bits * place);
}

/// k runs down a column of int32; zero points along N, `less` than they mean: 1 in version 1.
void add_gptq(File& file, const std::string& name, const Numbers& x, int less) {
  const std::int64_t per_word = x.per_word();
  std::vector<std::uint32_t> qweight(static_cast<std::size_t>(x.k / per_word * x.n));
  std::vector<std::uint32_t> qzeros(static_cast<std::size_t>(x.groups() * x.n / per_word));
  std::vector<std::int32_t> g_idx = x.g_idx;
  for (std::int64_t n = 0; n < x.n; ++n) {
    for (std::int64_t k = 0; k < x.k; ++k) put(qweight, x.bits, k / per_word * x.n + n, k % per_word, x.code(n, k));
    for (std::int64_t g = 0; g < x.groups(); ++g) {
      const int zero = x.zeros[static_cast<std::size_t>(g * x.n + n)] - less;
      put(qzeros, x.bits, g * (x.n / per_word) + n / per_word, n % per_word, zero);
    }
  }
  for (std::int64_t k = 0; k < x.k && x.g_idx.empty(); ++k) {
    g_idx.push_back(static_cast<std::int32_t>(k / x.group_size));
  }
  file.add(name + ".qweight", "I32", {x.k / per_word, x.n}, qweight);
  file.add(name + ".qzeros", "I32", {x.groups(), x.n / per_word}, qzeros);
  file.add(name + ".scales", "F16", {x.groups(), x.n}, x.scales);
  file.add(name + ".g_idx", "I32", {x.k}, g_idx);
}

/// n runs along a row of int32; nibble i of a word holds column 0, 2, 4, 6, 1, 3, 5, 7 of its eight.
void add_awq(File& file, const std::string& name, const Numbers& x) {
  const auto nibble_of = [](std::int64_t column) { return column % 2 == 0 ? column / 2 : 4 + column / 2; };
  std::vector<std::uint32_t> qweight(static_cast<std::size_t>(x.k * x.n / 8));
  std::vector<std::uint32_t> qzeros(static_cast<std::size_t>(x.groups() * x.n / 8));
  for (std::int64_t n = 0; n < x.n; ++n) {
    for (std::int64_t k = 0; k < x.k; ++k) put(qweight, 4, k * (x.n / 8) + n / 8, nibble_of(n % 8), x.code(n, k));
    for (std::int64_t g = 0; g < x.groups(); ++g) {
      put(qzeros, 4, g * (x.n / 8) + n / 8, nibble_of(n % 8), x.zeros[static_cast<std::size_t>(g * x.n + n)]);
    }
  }
  file.add(name + ".qweight", "I32", {x.k, x.n / 8}, qweight);
  file.add(name + ".qzeros", "I32", {x.groups(), x.n / 8}, qzeros);
  file.add(name + ".scales", "F16", {x.groups(), x.n}, x.scales);
}

/// [groups, N] as [N, groups].
template <class T, class From>
std::vector<T> by_row(const Numbers& x, const std::vector<From>& values, int less = 0) {
  std::vector<T> result(values.size());
  for (std::int64_t n = 0; n < x.n; ++n) {
    for (std::int64_t g = 0; g < x.groups(); ++g) {
      const From value = values[static_cast<std::size_t>(g * x.n + n)];
      result[static_cast<std::size_t>(n * x.groups() + g)] = static_cast<T>(value - less);
    }
  }
  return result;
}

/// k runs along a row of int32, codes counted from the lowest; scales [N, groups]; zero points likewise, along N.
void add_pack_quantized(File& file, const std::string& name, const Numbers& x, bool zero_points) {
  const std::int64_t per_word = x.per_word();
  const std::int64_t columns = (x.k + per_word - 1) / per_word;
  const std::int64_t zero_rows = (x.n + per_word - 1) / per_word;
  std::vector<std::uint32_t> packed(static_cast<std::size_t>(x.n * columns));
  std::vector<std::uint32_t> zeros(static_cast<std::size_t>(zero_rows * x.groups()));
  for (std::int64_t n = 0; n < x.n; ++n) {
    for (std::int64_t k = 0; k < x.k; ++k) put(packed, x.bits, n * columns + k / per_word, k % per_word, x.code(n, k));
    for (std::int64_t g = 0; g < x.groups(); ++g) {
      const int zero = x.zeros[static_cast<std::size_t>(g * x.n + n)];
      put(zeros, x.bits, n / per_word * x.groups() + g, n % per_word, zero);
    }
  }
  file.add(name + ".weight_packed", "I32", {x.n, columns}, packed);
  file.add(name + ".weight_scale", "BF16", {x.n, x.groups()}, by_row<std::uint16_t>(x, x.scales));
  file.add(name + ".weight_shape", "I64", {2}, std::vector<std::int64_t>{x.n, x.k});
  if (zero_points) file.add(name + ".weight_zero_point", "I32", {zero_rows, x.groups()}, zeros);
  if (!x.g_idx.empty()) file.add(name + ".weight_g_idx", "I32", {x.k}, x.g_idx);
}

/// int8 as they are; codes and zero points 128 less than counted from the lowest.
void add_int_quantized(File& file, const std::string& name, const Numbers& x, bool zero_points) {
  std::vector<std::int8_t> weight;
  for (const int code : x.codes) weight.push_back(static_cast<std::int8_t>(code - 128));
  file.add(name + ".weight", "I8", {x.n, x.k}, weight);
  file.add(name + ".weight_scale", "BF16", {x.n, x.groups()}, by_row<std::uint16_t>(x, x.scales));
  if (!zero_points) return;
  file.add(name + ".weight_zero_point", "I8", {x.n, x.groups()}, by_row<std::int8_t>(x, x.zeros, 128));
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

void expect_same(const Checkpoint& checkpoint, const ForeignLayer& layer, const Numbers& x, WeightType type) {
  ASSERT_EQ(layer.obstacle, "");
  const Result<reference::QuantizedTensor> weight = read_foreign_layer(checkpoint, layer);
  ASSERT_TRUE(weight.ok()) << weight.status().message();
  ASSERT_EQ(name_of(weight->type), name_of(type));
  ASSERT_EQ(weight->n, x.n);
  ASSERT_EQ(weight->k, x.k);
  ASSERT_EQ(weight->g_idx, x.g_idx);
  const QuantizedWeight view = weight->view();
  const reference::WeightReader reader(view);
  for (std::int64_t n = 0; n < x.n; ++n) {
    for (std::int64_t k = 0; k < x.k; ++k) ASSERT_EQ(reader.code(n, k), x.code(n, k)) << "row " << n << ", k " << k;
  }
  ASSERT_EQ(weight->scales.size(), x.scales.size() * 2);
  EXPECT_EQ(std::memcmp(weight->scales.data(), x.scales.data(), weight->scales.size()), 0);
  if (has_zero_points(type)) {
    EXPECT_EQ(std::vector<int>(weight->zero_points.begin(), weight->zero_points.end()), x.zeros);
  } else {
    EXPECT_TRUE(weight->zero_points.empty());
  }
}

TEST_F(Foreign, EveryFormatIsReadBitForBit) {
  struct Case {
    std::string format;
    int bits;
    WeightType symmetric, with_zeros;
  };
  for (const Case& each :
       {Case{"gptq", 4, WeightType::kU4b8, WeightType::kU4}, Case{"gptq", 8, WeightType::kU8b128, WeightType::kU8},
        Case{"gptq_v2", 4, WeightType::kU4b8, WeightType::kU4},
        Case{"gptq_v2", 8, WeightType::kU8b128, WeightType::kU8}, Case{"awq", 4, WeightType::kU4b8, WeightType::kU4},
        Case{"pack-quantized", 4, WeightType::kU4b8, WeightType::kU4},
        Case{"pack-quantized", 8, WeightType::kU8b128, WeightType::kU8},
        Case{"int-quantized", 8, WeightType::kS8, WeightType::kU8}}) {
    for (const bool symmetric : {true, false}) {
      SCOPED_TRACE(fmt::format("{}, {} bits, {}symmetric", each.format, each.bits, symmetric ? "" : "not "));
      const Numbers x = numbers(each.bits, 40, 192, 64, symmetric);
      File file;
      config(fmt::format(R"({{"quantization_config": {{"checkpoint_format": "{}"}}}})", each.format));
      if (each.format == "awq") {
        add_awq(file, "a.proj", x);
      } else if (each.format == "pack-quantized") {
        add_pack_quantized(file, "a.proj", x, !symmetric);
      } else if (each.format == "int-quantized") {
        add_int_quantized(file, "a.proj", x, !symmetric);
      } else {
        add_gptq(file, "a.proj", x, each.format == "gptq" ? 1 : 0);
      }
      const Checkpoint checkpoint = write(file);
      const auto layers = found(checkpoint);
      ASSERT_EQ(layers.size(), 1u);
      EXPECT_EQ(layers[0].name, "a.proj");
      EXPECT_EQ(layers[0].format->name, each.format);
      EXPECT_EQ(layers[0].bits, each.bits);
      EXPECT_EQ(layers[0].group_size, 64);
      expect_same(checkpoint, layers[0], x, symmetric ? each.symmetric : each.with_zeros);
    }
  }
}

TEST_F(Foreign, ActOrderIsRead) {
  for (const int bits : {4, 8}) {
    for (const bool symmetric : {true, false}) {
      const Numbers x = shuffled(numbers(bits, 40, 208, 64, symmetric));  // the last group has 16
      const Numbers whole = shuffled(numbers(bits, 40, 192, 64, symmetric));
      File file;
      add_gptq(file, "g", x, 1);
      add_pack_quantized(file, "p", whole, !symmetric);
      const Checkpoint checkpoint = write(file);
      const auto layers = found(checkpoint);
      ASSERT_EQ(layers.size(), 2u);
      for (const ForeignLayer& layer : layers) {
        SCOPED_TRACE(layer.name);
        EXPECT_TRUE(layer.act_order);
        EXPECT_EQ(layer.group_size, 64);
        EXPECT_EQ(layer.parts.size(), layer.name == "g" || symmetric ? 4u : 5u);
        const WeightType four = symmetric ? WeightType::kU4b8 : WeightType::kU4;
        const WeightType eight = symmetric ? WeightType::kU8b128 : WeightType::kU8;
        expect_same(checkpoint, layer, layer.name == "g" ? x : whole, bits == 4 ? four : eight);
      }
    }
  }
}

TEST_F(Foreign, PackQuantizedNeedsNoMultiplesOfEight) {
  for (const int bits : {4, 8}) {
    const Numbers x = numbers(bits, 13, 101, 101, true);
    File file;
    add_pack_quantized(file, "odd", x, false);
    const Checkpoint checkpoint = write(file);
    const auto layers = found(checkpoint);
    ASSERT_EQ(layers.size(), 1u);
    EXPECT_EQ(layers[0].group_size, -1);
    expect_same(checkpoint, layers[0], x, bits == 4 ? WeightType::kU4b8 : WeightType::kU8b128);
  }
}

// Version 1 stores zero points less 1: 16 of 4 bits is a byte as any other, 256 of 8 bits is not.
TEST_F(Foreign, GptqZeroPointsBeyondTheCodes) {
  Numbers four = numbers(4, 16, 64, 32, false);
  four.zeros[5] = 16;
  Numbers eight = numbers(8, 16, 64, 32, false);
  eight.zeros[5] = 256;
  File file;
  add_gptq(file, "eight", eight, 1);
  add_gptq(file, "four", four, 1);
  const Checkpoint checkpoint = write(file);
  for (const ForeignLayer& layer : found(checkpoint)) {
    if (layer.name == "four") {
      expect_same(checkpoint, layer, four, WeightType::kU4);
    } else {
      EXPECT_THAT(layer.obstacle, HasSubstr("256"));
    }
  }
}

// Scales may be fp32, one a row, or one for all.
TEST_F(Foreign, ScalesOfCompressedTensors) {
  const std::vector<std::int8_t> weight(48 * 32, -3);
  const std::vector<float> rows = [] {
    std::vector<float> values;
    for (int n = 0; n < 48; ++n) values.push_back(0.1f + static_cast<float>(n));
    return values;
  }();
  File file;
  file.add("one.weight", "I8", {48, 32}, weight);
  file.add("one.weight_scale", "F32", {}, std::vector<float>{0.3f});
  file.add("rows.weight", "I8", {48, 32}, weight);
  file.add("rows.weight_scale", "F32", {48}, rows);
  const Checkpoint checkpoint = write(file);
  const auto layers = found(checkpoint);
  ASSERT_EQ(layers.size(), 2u);
  for (const ForeignLayer& layer : layers) {
    EXPECT_EQ(layer.group_size, -1);
    EXPECT_EQ(layer.scale_type, DataType::kF32);
    const auto read = read_foreign_layer(checkpoint, layer);
    ASSERT_TRUE(read.ok());
    EXPECT_EQ(read->qweight, std::vector<std::uint8_t>(48 * 32, 0xfd));
    const std::vector<float> expected = layer.name == "one" ? std::vector<float>(48, 0.3f) : rows;
    ASSERT_EQ(read->scales.size(), expected.size() * 4);
    EXPECT_EQ(std::memcmp(read->scales.data(), expected.data(), read->scales.size()), 0);
  }
}

TEST_F(Foreign, RefusesScalesThatAreNotFinite) {
  Numbers x = numbers(4, 16, 64, 32, true);
  x.scales[16 + 3] = 0x7c00;  // infinity
  File file;
  add_gptq(file, "x", x, 1);
  const Checkpoint checkpoint = write(file);
  const auto layers = found(checkpoint);
  ASSERT_EQ(layers.size(), 1u);
  const auto read = read_foreign_layer(checkpoint, layers[0]);
  ASSERT_FALSE(read.ok());
  EXPECT_THAT(read.status().message(), HasSubstr("\"x.qweight\": the scale of row 3, group 1, is inf"));
}

TEST_F(Foreign, SaysWhatItCannotRead) {
  const Numbers x = numbers(4, 16, 128, 32, true);
  File file;
  add_gptq(file, "plain", x, 1);
  const Numbers small = numbers(4, 16, 64, 8, true);
  add_gptq(file, "small_groups", small, 1);
  std::vector<std::int32_t> g_idx;  // one k too many belongs to a later group
  for (std::int64_t k = 0; k < x.k; ++k) g_idx.push_back(static_cast<std::int32_t>((k == 3 ? 40 : k) / 32));
  File others;
  add_awq(others, "awq", x);
  others.add("g.qweight", "I32", {16, 16}, std::vector<std::uint32_t>(256));
  others.add("g.qzeros", "I32", {4, 2}, std::vector<std::uint32_t>(8));
  others.add("g.scales", "F16", {4, 16}, std::vector<std::uint16_t>(64));
  others.add("g.g_idx", "I32", {128}, g_idx);
  others.add("two.qweight", "I32", {8, 16}, std::vector<std::uint32_t>(128));
  others.add("two.qzeros", "I32", {4, 1}, std::vector<std::uint32_t>(4));
  others.add("two.scales", "F16", {4, 16}, std::vector<std::uint16_t>(64));
  std::map<std::string, std::string> obstacles;
  for (const ForeignLayer& layer : found(write(others))) obstacles[layer.name] = layer.obstacle;
  EXPECT_EQ(obstacles["awq"], "");
  EXPECT_THAT(obstacles["g"], HasSubstr("groups of different sizes, by its g_idx"));
  EXPECT_THAT(obstacles["two"], HasSubstr("2-bit"));
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
  add_gptq(file, "x", numbers(4, 16, 64, 32, true), 1);
  EXPECT_THAT(refusal(file), HasSubstr("config.json"));
}

TEST_F(Foreign, FloatingPointWeights) {
  File file;
  const auto bytes = [&file](const std::string& name, const char* dtype, const std::vector<std::int64_t>& shape) {
    std::int64_t count = 1;
    for (const std::int64_t size : shape) count *= size;
    file.add(name, dtype, shape, std::vector<std::uint8_t>(static_cast<std::size_t>(count)));
  };
  bytes("block.weight", "F8_E4M3", {256, 128});
  file.add("block.weight_scale_inv", "F32", {2, 1}, std::vector<float>(2));
  bytes("odd_block.weight", "F8_E4M3", {256, 128});
  file.add("odd_block.weight_scale_inv", "F32", {4, 2}, std::vector<float>(8));
  bytes("channel.weight", "F8_E4M3", {32, 16});
  file.add("channel.weight_scale", "F32", {32, 1}, std::vector<float>(32));
  bytes("e5m2.weight", "F8_E5M2", {32, 16});
  file.add("e5m2.weight_scale", "F32", {32, 1}, std::vector<float>(32));
  bytes("moe.up_blocks", "U8", {2, 8, 4, 16});
  bytes("moe.up_scales", "U8", {2, 8, 4});
  bytes("mx.weight_packed", "U8", {8, 32});
  bytes("mx.weight_scale", "U8", {8, 2});
  bytes("nv.weight_packed", "U8", {8, 32});
  bytes("nv.weight_scale", "F8_E4M3", {8, 4});
  file.add("nv.weight_global_scale", "F32", {1}, std::vector<float>{4});
  bytes("stack.weight", "I8", {2, 8, 32});
  file.add("stack.weight_scale", "F32", {2, 8, 1}, std::vector<float>(16));
  std::map<std::string, ForeignLayer> layers;
  for (const ForeignLayer& layer : found(write(file))) layers[layer.name] = layer;
  ASSERT_EQ(layers.size(), 9u);
  const auto expect = [&layers](const std::string& name, const char* format, std::int64_t n, std::int64_t k,
                                std::int64_t group_size, const char* obstacle) {
    SCOPED_TRACE(name);
    ASSERT_EQ(layers.count(name), 1u);
    EXPECT_EQ(layers[name].format->name, format);
    EXPECT_EQ(layers[name].n, n);
    EXPECT_EQ(layers[name].k, k);
    EXPECT_EQ(layers[name].group_size, group_size);
    if (*obstacle == 0) {
      EXPECT_EQ(layers[name].obstacle, "");
    } else {
      EXPECT_THAT(layers[name].obstacle, HasSubstr(obstacle));
    }
  };
  expect("block", "fp8", 256, 128, -1, "");
  expect("odd_block", "fp8", 256, 128, 0, "scales of shape [4, 2]");
  expect("channel", "float-quantized", 32, 16, -1, "");
  expect("e5m2", "float-quantized", 32, 16, 0, "e5m2");
  expect("moe.up.0", "mxfp4", 8, 128, 32, "");
  expect("moe.up.1", "mxfp4", 8, 128, 32, "");
  expect("mx", "mxfp4-pack-quantized", 8, 64, 32, "");
  expect("nv", "nvfp4-pack-quantized", 8, 64, 16, "");
  EXPECT_EQ(layers["nv"].tensor_scale, 0.25f);
  expect("stack", "int-quantized", 16, 32, 0, "no matrix");
}

// What compressed-tensors writes for blocks of another size is an obstacle of its layer, not of the file.
TEST_F(Foreign, Fp8BlocksOfAnotherSize) {
  File file;
  const auto add = [&file](const std::string& name, const char* suffix, const std::vector<std::int64_t>& shape) {
    file.add(name + ".weight", "F8_E4M3", {256, 384}, std::vector<std::uint8_t>(256 * 384));
    file.add(name + suffix, "F32", shape, std::vector<float>(static_cast<std::size_t>(shape[0] * shape[1]), 1));
  };
  add("small", ".weight_scale", {4, 6});
  add("right", ".weight_scale", {2, 3});
  add("rows", ".weight_scale", {256, 3});
  add("inverse", ".weight_scale_inv", {4, 6});
  std::map<std::string, std::string> obstacles;
  for (const ForeignLayer& layer : found(write(file))) obstacles[layer.name] = layer.obstacle;
  ASSERT_EQ(obstacles.size(), 4u);
  EXPECT_THAT(obstacles["small"], HasSubstr("[4, 6], which are not those of blocks of 128 x 128"));
  EXPECT_THAT(obstacles["inverse"], HasSubstr("[4, 6], which are not those of blocks of 128 x 128"));
  EXPECT_EQ(obstacles["right"], "");
  EXPECT_EQ(obstacles["rows"], "");
  config(R"({"quantization_config": {"quant_method": "fp8", "weight_block_size": [64, 128]}})");
  File blocks;
  blocks.add("b.weight", "F8_E4M3", {64, 128}, std::vector<std::uint8_t>(64 * 128));
  blocks.add("b.weight_scale_inv", "F32", {1, 1}, std::vector<float>(1, 1));
  EXPECT_THAT(found(write(blocks)).at(0).obstacle, HasSubstr("blocks of [64, 128] by weight_block_size"));
}

TEST_F(Foreign, AwqByTheNamesOfItsVersions) {
  const Numbers x = numbers(4, 32, 64, 32, false);
  File file;
  add_awq(file, "x", x);
  for (const char* text :
       {R"({"quantization_config": {"quant_method": "awq", "version": "GEMM", "bits": 4}})",
        R"({"quantization_config": {"quant_method": "awq", "version": "gemm", "group_size": 32}})"}) {
    config(text);
    const Checkpoint checkpoint = write(file);
    expect_same(checkpoint, found(checkpoint).at(0), x, WeightType::kU4);
  }
  config(R"({"quantization_config": {"quant_method": "awq", "version": "GEMV"}})");
  EXPECT_THAT(found(write(file)).at(0).obstacle, HasSubstr("AWQ's version \"gemv\""));
  config("{}");
  // What AutoAWQ wrote before it wrote config.json; N = K/8 makes the tensors look like GPTQ's.
  std::ofstream(folder_ / "quant_config.json")
      << R"({"zero_point": true, "q_group_size": 32, "w_bit": 4, "version": "GEMM"})";
  const Checkpoint old = write(file);
  ASSERT_TRUE(old.config().ok());
  EXPECT_EQ(old.config()->method, "awq");
  expect_same(old, found(old).at(0), x, WeightType::kU4);
  std::ofstream(folder_ / "quant_config.json") << R"({"q_group_size": 64, "w_bit": 4, "version": "GEMM"})";
  const Checkpoint other = write(file);
  EXPECT_EQ(found(other).at(0).note, "quant_config.json says 4 bits in groups of 64");
  expect_same(other, found(other).at(0), x, WeightType::kU4);
}

TEST_F(Foreign, NamesWhatTheConfigurationContradicts) {
  const Numbers x = numbers(4, 32, 128, 32, true);
  File gptq;
  add_gptq(gptq, "x", x, 1);
  const auto says = [&](const std::string& quantization, const File& file) {
    config(fmt::format(R"({{"bits": 3, "quantization_config": {}}})", quantization));
    const auto layers = find_foreign_layers(write(file));
    return layers.ok() ? layers->at(0).note : layers.status().message();
  };
  EXPECT_EQ(says(R"({"quant_method": "gptq", "bits": 4, "group_size": 32})", gptq), "");
  EXPECT_EQ(says(R"({"quant_method": "gptq", "bits": 4, "group_size": null})", gptq), "");
  EXPECT_EQ(says(R"({"quant_method": "gptq", "bits": 8, "group_size": 64, "dynamic": {"x": {}}})", gptq), "");
  EXPECT_EQ(says(R"({"quant_method": "other", "bits": 8})", gptq), "");
  EXPECT_EQ(says(R"({"quant_method": "gptq", "bits": 8, "group_size": 32})", gptq),
            "config.json says 8 bits in groups of 32");
  EXPECT_THAT(says(R"({"quant_method": "gptq", "bits": 4, "group_size": -1})", gptq),
              HasSubstr("4 bits in groups of -1"));
  EXPECT_THAT(says(R"({"quant_method": "gptq", "bits": "4"})", gptq), HasSubstr("config.json"));
  File row;
  add_gptq(row, "x", numbers(4, 32, 64, 64, true), 1);
  EXPECT_EQ(says(R"({"quant_method": "gptq", "bits": 4, "group_size": 128})", row), "") << "one group, K being 64";

  // Without a g_idx, two groups of K=160 may be of 80 k each or of 96 and 64.
  File ragged;
  add_awq(ragged, "x", numbers(4, 32, 160, 80, true));
  EXPECT_EQ(says(R"({"quant_method": "awq", "bits": 4, "group_size": 80})", ragged), "");
  EXPECT_THAT(says(R"({"quant_method": "awq", "bits": 4, "group_size": 96})", ragged),
              HasSubstr("\"x.qweight\" has 2 groups, of 80 by its K=160, but config.json says 4 bits in groups of 96"));

  File packed;
  add_pack_quantized(packed, "x", x, false);
  const auto groups = [](const char* format, const std::string& weights) {
    return fmt::format(
        R"({{"quant_method": "compressed-tensors", "format": "{}", "config_groups": {{"group_0": {{"weights": {}}}}}}})",
        format, weights);
  };
  const char* right = R"({"num_bits": 4, "strategy": "group", "group_size": 32})";
  EXPECT_EQ(says(groups("pack-quantized", right), packed), "");
  EXPECT_EQ(says(groups("mixed-precision", right), packed), "");
  EXPECT_EQ(says(groups("pack-quantized", "null"), packed), "");
  EXPECT_THAT(says(groups("int-quantized", right), packed), HasSubstr("says format \"int-quantized\""));
  EXPECT_THAT(says(groups("pack-quantized", R"({"num_bits": 8, "strategy": "channel"})"), packed),
              HasSubstr("says 8 bits in groups of -1"));
  EXPECT_THAT(says(groups("pack-quantized", R"({"num_bits": true})"), packed), HasSubstr("config.json"));
  File channel;
  add_int_quantized(channel, "x", numbers(8, 32, 64, 64, true), false);
  EXPECT_EQ(says(groups("int-quantized", R"({"num_bits": 8, "strategy": "channel", "group_size": null})"), channel),
            "");
}

TEST_F(Foreign, NamesWhatIsWrongWithFp4) {
  const auto bytes = [](std::size_t count) { return std::vector<std::uint8_t>(count); };
  {
    File file;
    file.add("x.weight_packed", "U8", {8, 32}, bytes(256));
    file.add("x.weight_scale", "F8_E4M3", {8, 4}, bytes(32));
    EXPECT_THAT(refusal(file), HasSubstr("\"x.weight_global_scale\" is missing"));
    file.add("x.weight_global_scale", "F32", {1}, std::vector<float>{0});
    EXPECT_THAT(refusal(file), HasSubstr("\"x.weight_global_scale\" is 0; it must be finite"));
  }
  {
    File file;
    file.add("x_blocks", "U8", {2, 8, 4, 15}, bytes(960));
    file.add("x_scales", "U8", {2, 8, 4}, bytes(64));
    EXPECT_THAT(refusal(file), HasSubstr("\"x_blocks\" has shape [2, 8, 4, 15]; the last size must be 16"));
  }
  File file;
  file.add("x.weight_packed", "U8", {8, 32}, bytes(256));
  file.add("x.weight_scale", "U8", {8, 3}, bytes(24));
  EXPECT_THAT(refusal(file), HasSubstr("\"x.weight_scale\" has shape [8, 3]"));
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
