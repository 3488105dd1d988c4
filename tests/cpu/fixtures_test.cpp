// Checkpoints that the formats' own libraries wrote (tests/fixtures/make_fixtures.py), with the weights as those
// libraries dequantise them.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "formats/checkpoint.h"
#include "formats/foreign.h"
#include "reference/dequantize.h"

namespace machete::formats {
namespace {

Checkpoint open(const std::string& name) {
  const Result<Checkpoint> checkpoint = Checkpoint::open(std::string(MACHETE_FIXTURES) + "/" + name);
  EXPECT_TRUE(checkpoint.ok()) << checkpoint.status().message();
  return *checkpoint;
}

/// Reads every layer of `file`, and expects the types named and the weights that `file`-expected holds: exactly, or, of
/// floating-point zero points, to a few roundings of the group's largest element.
void expect_weights(const std::string& file, const std::string& expected_file,
                    const std::map<std::string, WeightType>& types) {
  const Checkpoint checkpoint = open(file);
  const Checkpoint expected = open(expected_file);
  const auto layers = find_foreign_layers(checkpoint);
  ASSERT_TRUE(layers.ok()) << layers.status().message();
  ASSERT_EQ(layers->size(), types.size());
  for (const ForeignLayer& layer : *layers) {
    SCOPED_TRACE(layer.name);
    ASSERT_EQ(layer.obstacle, "");
    ASSERT_EQ(name_of(layer.type), name_of(types.at(layer.name)));
    const auto weight = read_foreign_layer(checkpoint, layer);
    ASSERT_TRUE(weight.ok()) << weight.status().message();
    const Tensor* tensor = expected.find(layer.name);
    ASSERT_NE(tensor, nullptr);
    ASSERT_EQ(tensor->shape, (std::vector<std::int64_t>{layer.n, layer.k}));
    const std::vector<float> want = *to_floats(*tensor);
    const std::vector<float> have = reference::dequantize(weight->view());
    const bool exact = !has_zero_points(layer.type) || layer.zero_point_type == DataType::kU8;
    for (std::size_t i = 0; i < want.size(); ++i) {
      float largest = 0;
      for (std::size_t j = i / 32 * 32; j < i / 32 * 32 + 32 && !exact; ++j) {
        largest = std::max(largest, std::abs(want[j]));
      }
      ASSERT_LE(std::abs(have[i] - want[i]), largest * 0x1p-21f) << "element " << i;
    }
  }
}

TEST(Fixtures, Gptq) {
  expect_weights(
      "gptq.safetensors", "gptq-expected.safetensors",
      {{"g4", WeightType::kU4b8}, {"g4z", WeightType::kU4}, {"g8", WeightType::kU8b128}, {"g8z", WeightType::kU8}});
}

// Groups whose k's are mixed; by GPTQModel also version 2, whose zero points are stored as they are, 0 among them.
TEST(Fixtures, GptqActOrder) {
  expect_weights("gptq_act_order.safetensors", "gptq_act_order-expected.safetensors",
                 {{"g4o", WeightType::kU4}, {"g8o", WeightType::kU8}});
  expect_weights(
      "gptq_v2", "gptq_v2-expected.safetensors",
      {{"g4z", WeightType::kU4}, {"g4zo", WeightType::kU4}, {"g8z", WeightType::kU8}, {"g8zo", WeightType::kU8}});
}

TEST(Fixtures, Awq) { expect_weights("awq.safetensors", "awq-expected.safetensors", {{"a4", WeightType::kU4}}); }

TEST(Fixtures, CompressedTensors) {
  expect_weights("compressed-tensors.safetensors", "compressed-tensors-expected.safetensors",
                 {{"p4", WeightType::kU4b8},
                  {"p4z", WeightType::kU4},
                  {"p8", WeightType::kU8b128},
                  {"p8z", WeightType::kU8},
                  {"i8", WeightType::kS8},
                  {"i8z", WeightType::kU8}});
}

TEST(Fixtures, Fp4) {
  expect_weights("fp4.safetensors", "fp4-expected.safetensors",
                 {{"nv", WeightType::kE2m1},
                  {"mx", WeightType::kE2m1},
                  {"experts.up.0", WeightType::kE2m1},
                  {"experts.up.1", WeightType::kE2m1}});
}

TEST(Fixtures, Fp8) {
  expect_weights("fp8.safetensors", "fp8-expected.safetensors",
                 {{"channel", WeightType::kE4m3},
                  {"tensor", WeightType::kE4m3},
                  {"group", WeightType::kE4m3},
                  {"block", WeightType::kE4m3}});
}

// As transformers dequantises them.
TEST(Fixtures, Fp8Blocks) {
  expect_weights("fp8_blocks.safetensors", "fp8_blocks-expected.safetensors",
                 {{"rows", WeightType::kE4m3}, {"columns", WeightType::kE4m3}});
}

TEST(Fixtures, Gguf) {
  expect_weights("blocks.gguf", "blocks-expected.safetensors",
                 {{"blk.0.Q4_0", WeightType::kU4b8}, {"blk.0.Q4_1", WeightType::kU4}, {"blk.0.Q8_0", WeightType::kS8}});
  const Checkpoint checkpoint = open("blocks.gguf");
  const Checkpoint expected = open("blocks-expected.safetensors");
  for (const char* name : {"blk.0.float32.weight", "blk.0.float16.weight"}) {
    const Tensor* tensor = checkpoint.find(name);
    ASSERT_NE(tensor, nullptr) << name;
    EXPECT_EQ(tensor->shape, (std::vector<std::int64_t>{3, 4}));
    EXPECT_EQ(*to_floats(*tensor), *to_floats(*expected.find(name)));
  }
  EXPECT_EQ(checkpoint.metadata().at("gguf.general.name"), "a fixture");
  EXPECT_EQ(checkpoint.metadata().at("gguf.llama.context_length"), "77");
  EXPECT_EQ(checkpoint.metadata().count("gguf.tokenizer.ggml.tokens"), 0u) << "arrays are passed over";
}

}  // namespace
}  // namespace machete::formats
