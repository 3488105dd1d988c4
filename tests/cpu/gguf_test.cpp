// GGUF files made here byte by byte from what the format says, and what breaks them.
#include "formats/gguf.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "formats/checkpoint.h"
#include "formats/foreign.h"
#include "reference/dequantize.h"

namespace machete::formats {
namespace {

using ::testing::HasSubstr;

enum : std::uint32_t { kF32 = 0, kF16 = 1, kQ40 = 2, kQ41 = 3, kQ80 = 8, kQ6K = 14 };

/// A header, piece by piece, little-endian.
class Bytes {
 public:
  template <class T>
  Bytes& number(T value) {
    bytes_.append(reinterpret_cast<const char*>(&value), sizeof(T));
    return *this;
  }
  Bytes& string(const std::string& text) { return number<std::uint64_t>(text.size()).raw(text); }
  Bytes& raw(const std::string& bytes) {
    bytes_ += bytes;
    return *this;
  }
  Bytes& key_u32(const std::string& key, std::uint32_t value) { return string(key).number(4u).number(value); }
  Bytes& key_string(const std::string& key, const std::string& value) { return string(key).number(8u).string(value); }
  Bytes& tensor(const std::string& name, const std::vector<std::uint64_t>& sizes, std::uint32_t type,
                std::uint64_t offset) {
    string(name).number(static_cast<std::uint32_t>(sizes.size()));
    for (const std::uint64_t size : sizes) number(size);
    return number(type).number(offset);
  }
  Bytes& align(std::size_t alignment = 32) {
    bytes_.resize((bytes_.size() + alignment - 1) / alignment * alignment);
    return *this;
  }
  const std::string& get() const { return bytes_; }

 private:
  std::string bytes_;
};

Bytes begin(std::uint64_t tensors, std::uint64_t keys, std::uint32_t version = 3) {
  return Bytes().raw("GGUF").number(version).number(tensors).number(keys);
}

Result<TensorFile> parse(const std::string& bytes) {
  return parse_gguf("test.gguf", FileBytes::of({bytes.begin(), bytes.end()}));
}

std::string refusal(const Bytes& bytes) {
  const Result<TensorFile> file = parse(bytes.get());
  EXPECT_FALSE(file.ok());
  EXPECT_THAT(file.status().message(), HasSubstr("test.gguf"));
  return file.status().message();
}

/// One float tensor and one of each kind of blocks, with keys of several types.
std::string small_file() {
  Bytes bytes = begin(4, 4);
  bytes.key_string("general.architecture", "llama").key_u32("general.alignment", 64);
  bytes.string("list").number(9u).number(8u).number(std::uint64_t{2}).string("a").string("bc");
  bytes.string("flag").number(7u).number(std::uint8_t{1});
  bytes.tensor("norm.weight", {3}, kF32, 0).tensor("a.weight", {32, 2}, kQ40, 64);
  bytes.tensor("b.weight", {32, 1}, kQ41, 128).tensor("c.weight", {32, 1}, kQ80, 192).align(64);
  bytes.number(1.0f).number(2.0f).number(3.0f).align(64);
  for (const std::uint16_t scale : {0x3c00, 0xb800}) {  // 1, -0.5
    bytes.number(scale);
    for (int i = 0; i < 16; ++i) bytes.number(static_cast<std::uint8_t>(i | (15 - i) << 4));
  }
  bytes.align(64).number(std::uint16_t{0x4000}).number(std::uint16_t{0x3c00});  // d = 2, m = 1
  for (int i = 0; i < 16; ++i) bytes.number(static_cast<std::uint8_t>(i | (15 - i) << 4));
  bytes.align(64).number(std::uint16_t{0x3400});  // 0.25
  for (int i = 0; i < 32; ++i) bytes.number(static_cast<std::int8_t>(8 * i - 128));
  return bytes.get();
}

TEST(Gguf, ReadsTensorsAndKeys) {
  const Result<TensorFile> file = parse(small_file());
  ASSERT_TRUE(file.ok()) << file.status().message();
  EXPECT_EQ(file->metadata().at("gguf.general.architecture"), "llama");
  EXPECT_EQ(file->metadata().at("gguf.flag"), "true");
  EXPECT_EQ(file->metadata().count("gguf.list"), 0u);
  ASSERT_NE(file->find("norm.weight"), nullptr);
  EXPECT_EQ(*to_floats(*file->find("norm.weight")), (std::vector<float>{1, 2, 3}));
  EXPECT_EQ(file->find("a.weight")->shape, (std::vector<std::int64_t>{2, 32}));

  const Checkpoint checkpoint = Checkpoint::of(*file, QuantizationConfig());
  const auto layers = find_foreign_layers(checkpoint);
  ASSERT_TRUE(layers.ok());
  ASSERT_EQ(layers->size(), 3u);
  std::vector<std::vector<float>> weights;
  for (const ForeignLayer& layer : *layers) {
    EXPECT_EQ(layer.group_size, 32);
    const auto weight = read_foreign_layer(checkpoint, layer);
    ASSERT_TRUE(weight.ok());
    weights.push_back(reference::dequantize(weight->view()));
  }
  for (int k = 0; k < 32; ++k) {
    const auto at = static_cast<std::size_t>(k);
    const auto code = static_cast<float>(k < 16 ? k : 31 - k);
    EXPECT_EQ(weights[0][at], code - 8);
    EXPECT_EQ(weights[0][32 + at], -0.5f * (code - 8));
    EXPECT_EQ(weights[1][at], 2 * code + 1);
    EXPECT_EQ(weights[2][at], 0.25f * static_cast<float>(8 * k - 128));
  }
}

/// One group of Q4_1 as we read it: 32 elements with code 7, by d and m.
Result<reference::QuantizedTensor> read_group(std::uint16_t d, std::uint16_t m) {
  Bytes bytes = begin(1, 0).tensor("x", {32, 1}, kQ41, 0).align().number(d).number(m).raw(std::string(16, '\x77'));
  const Result<TensorFile> file = parse(bytes.get());
  EXPECT_TRUE(file.ok()) << file.status().message();
  const Checkpoint checkpoint = Checkpoint::of(*file, QuantizationConfig());
  const auto layers = find_foreign_layers(checkpoint);
  EXPECT_TRUE(layers.ok());
  return read_foreign_layer(checkpoint, layers->at(0));
}

TEST(Gguf, GroupsWithoutAScaleKeepTheirMinimum) {
  const auto value = [](std::uint16_t d, std::uint16_t m) { return reference::dequantize(read_group(d, m)->view()); };
  EXPECT_EQ(value(0, 0x3a00), std::vector<float>(32, 0.75f));
  EXPECT_EQ(value(0x8000, 0xfbff), std::vector<float>(32, -65504.0f));
  EXPECT_EQ(value(0, 0), std::vector<float>(32, 0.0f));
  EXPECT_EQ(value(0x3c00, 0x8000), std::vector<float>(32, 7.0f));
  EXPECT_EQ(value(0x0001, 0), std::vector<float>(32, 7 * 0x1p-24f)) << "a subnormal scale";
  EXPECT_FLOAT_EQ(value(0x0001, 0x7bff)[5], 65504.0f) << "a minimum far beyond the scale";
  for (const std::uint16_t bad : {0x7c00, 0x7e00, 0xfc00}) {
    EXPECT_THAT(read_group(bad, 0x3c00).status().message(), HasSubstr("tensor \"x\": the "));
    EXPECT_THAT(read_group(0x3c00, bad).status().message(), HasSubstr("must be finite"));
    EXPECT_THAT(read_group(0, bad).status().message(), HasSubstr("must be finite"));
  }
}

TEST(Gguf, SaysWhichBlocksItCannotRead) {
  Bytes bytes = begin(2, 0).tensor("k.weight", {256, 1}, kQ6K, 0).tensor("e.weight", {32, 2, 2}, kQ80, 224);
  bytes.align().raw(std::string(224 + 4 * 34, '\0'));
  const Result<TensorFile> file = parse(bytes.get());
  ASSERT_TRUE(file.ok()) << file.status().message();
  const auto layers = find_foreign_layers(Checkpoint::of(*file, QuantizationConfig()));
  ASSERT_TRUE(layers.ok());
  ASSERT_EQ(layers->size(), 2u);
  EXPECT_THAT((*layers)[0].obstacle, HasSubstr("Q6_K; of GGUF's blocks"));
  EXPECT_THAT((*layers)[1].obstacle, HasSubstr("no matrix"));
}

TEST(Gguf, RefusesEveryTruncation) {
  const std::string whole = small_file();
  for (std::size_t length = 0; length < whole.size(); ++length) {
    EXPECT_FALSE(parse(whole.substr(0, length)).ok()) << "cut to " << length << " bytes";
  }
}

TEST(Gguf, SurvivesEveryFlippedBit) {
  const std::string whole = small_file();
  for (std::size_t i = 0; i < whole.size() * 8; ++i) {
    std::string damaged = whole;
    damaged[i / 8] = static_cast<char>(damaged[i / 8] ^ 1 << i % 8);
    const Result<TensorFile> file = parse(damaged);
    if (!file.ok()) continue;
    const Checkpoint checkpoint = Checkpoint::of(*file, QuantizationConfig());
    const auto layers = find_foreign_layers(checkpoint);
    if (!layers.ok()) continue;
    for (const ForeignLayer& layer : *layers) {
      if (layer.obstacle.empty()) static_cast<void>(read_foreign_layer(checkpoint, layer));
    }
  }
}

TEST(Gguf, NamesWhatContradictsTheFormat) {
  constexpr std::uint64_t kHuge = std::numeric_limits<std::uint64_t>::max();
  EXPECT_THAT(refusal(Bytes().raw("GGML")), HasSubstr("must begin with"));
  EXPECT_THAT(refusal(begin(0, 0, 1)), HasSubstr("version 1 is not read"));
  EXPECT_THAT(refusal(begin(0, 0, 0x03000000)), HasSubstr("little-endian"));
  EXPECT_THAT(refusal(begin(kHuge, 0)), HasSubstr("said to hold 18446744073709551615 tensors"));
  EXPECT_THAT(refusal(begin(0, kHuge)), HasSubstr("keys"));
  EXPECT_THAT(refusal(begin(0, 1).number(kHuge).raw(std::string(32, 'x'))), HasSubstr("needs 18446744073709551615"));
  EXPECT_THAT(refusal(begin(0, 1).string("k").number(99u).align()), HasSubstr("key \"k\": values of type 99"));
  EXPECT_THAT(refusal(begin(0, 2).key_u32("k", 1).key_u32("k", 1)), HasSubstr("\"k\" occurs twice"));
  EXPECT_THAT(refusal(begin(0, 1).key_u32("a\nb", 1)), HasSubstr("printable"));
  EXPECT_THAT(refusal(begin(0, 1).key_u32("\xff", 1)), HasSubstr("UTF-8"));
  EXPECT_THAT(refusal(begin(0, 1).string("k").number(9u).number(4u).number(kHuge / 4).align(64)),
              HasSubstr("key \"k\": it is said to hold"));
  Bytes deep = begin(0, 1).string("k").number(9u);
  for (int i = 0; i < 9; ++i) deep.number(9u).number(std::uint64_t{1});
  EXPECT_THAT(refusal(deep), HasSubstr("nest more than 4 deep"));
  for (const std::uint32_t alignment : {0u, 3u, 48u, 1u << 31}) {
    EXPECT_THAT(refusal(begin(0, 1).key_u32("general.alignment", alignment)), HasSubstr("power of two"));
  }
  EXPECT_THAT(refusal(begin(0, 1).string("split.count").number(2u).number(std::uint16_t{3})), HasSubstr("join them"));

  const auto with_tensor = [](const std::vector<std::uint64_t>& sizes, std::uint32_t type, std::uint64_t offset) {
    return refusal(begin(1, 0).tensor("x", sizes, type, offset).align().raw(std::string(64, '\0')));
  };
  EXPECT_THAT(with_tensor({1, 1, 1, 1, 1}, kF32, 0), HasSubstr("tensor \"x\": has 5 dimensions"));
  EXPECT_THAT(with_tensor({kHuge}, kF32, 0), HasSubstr("from 0 to 2^63"));
  EXPECT_THAT(with_tensor({std::uint64_t{1} << 40, std::uint64_t{1} << 40}, kF32, 0), HasSubstr("2^63 elements"));
  EXPECT_THAT(with_tensor({std::uint64_t{1} << 62}, kF32, 0), HasSubstr("2^63 bytes"));
  EXPECT_THAT(with_tensor({4}, 77, 0), HasSubstr("type 77 is unknown"));
  EXPECT_THAT(with_tensor({33}, kQ40, 0), HasSubstr("rows of 33 elements; Q4_0 needs a multiple of 32"));
  EXPECT_THAT(with_tensor({4}, kF32, 8), HasSubstr("no multiple of the alignment, 32"));
  EXPECT_THAT(with_tensor({4}, kF32, 64), HasSubstr("tensor \"x\": 16 bytes at 64 reach past the 64 bytes"));
  EXPECT_THAT(with_tensor({4}, kF32, kHuge - 31), HasSubstr("reach past"));
  EXPECT_THAT(with_tensor({17}, kF32, 0), HasSubstr("reach past"));
  EXPECT_THAT(
      refusal(begin(2, 0).tensor("x", {4}, kF32, 0).tensor("x", {4}, kF32, 32).align().raw(std::string(64, '\0'))),
      HasSubstr("occurs twice"));
  EXPECT_THAT(
      refusal(begin(2, 0).tensor("x", {16}, kF32, 0).tensor("y", {4}, kF32, 32).align().raw(std::string(64, '\0'))),
      HasSubstr("tensor \"y\": its data begin at 32, within another's"));
}

}  // namespace
}  // namespace machete::formats
