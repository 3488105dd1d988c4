// The machete command as its users meet it: exit status, one clear line on errors, JSON for machines.
#ifdef MACHETE_COMMAND

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "formats/checkpoint.h"
#include "formats/manifest.h"
#include "formats/safetensors.h"
#include "tests/cpu/folder.h"

namespace machete {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;
using Json = nlohmann::json;

struct Outcome {
  int status = -1;
  std::string out;
  std::string err;
};

class Command : public tests::FolderTest {
 protected:
  /// Runs it in the test's folder.
  Outcome machete(const std::string& arguments) const {
    const std::string line =
        fmt::format("cd '{}' && '{}' {} 2>'{}'", folder_.string(), MACHETE_COMMAND, arguments, path("stderr"));
    Outcome outcome;
    std::FILE* pipe = ::popen(line.c_str(), "r");
    if (pipe == nullptr) return outcome;
    std::array<char, 4096> buffer;
    while (const std::size_t count = std::fread(buffer.data(), 1, buffer.size(), pipe)) {
      outcome.out.append(buffer.data(), count);
    }
    const int status = ::pclose(pipe);
    outcome.status = WIFEXITED(status) ? WEXITSTATUS(status) : 128;
    outcome.err = get(path("stderr"));
    return outcome;
  }

  /// Runs it, expecting one line of error.
  std::string failure(const std::string& arguments, int status) const {
    const Outcome outcome = machete(arguments);
    EXPECT_EQ(outcome.status, status) << arguments;
    EXPECT_THAT(outcome.err, StartsWith("machete: error: ")) << arguments;
    EXPECT_EQ(std::count(outcome.err.begin(), outcome.err.end(), '\n'), 1) << outcome.err;
    EXPECT_EQ(outcome.out, "") << arguments;
    return outcome.err;
  }

  Json json(const std::string& arguments, int status = 0) const {
    const Outcome outcome = machete(arguments + " --json");
    EXPECT_EQ(outcome.status, status) << outcome.err;
    const Json value = Json::parse(outcome.out, nullptr, /*allow_exceptions=*/false);
    EXPECT_FALSE(value.is_discarded()) << outcome.out;
    return value;
  }

  /// A model with two linear layers of unfriendly sizes, an embedding and a bias.
  std::string write_model(const std::string& name = "model.safetensors") const {
    using formats::TensorInfo;
    const std::vector<TensorInfo> tensors = {{"a.weight", "F32", {40, 72}},
                                             {"a.bias", "F32", {40}},
                                             {"b.weight", "F32", {17, 129}},
                                             {"embeddings.weight", "F32", {5, 8}}};
    Result<formats::SafetensorsWriter> writer =
        formats::SafetensorsWriter::create(path(name), tensors, {{"format", "pt"}});
    EXPECT_TRUE(writer.ok());
    for (const TensorInfo& tensor : tensors) {
      std::vector<float> values(static_cast<std::size_t>(*formats::bytes_of_tensor(tensor)) / sizeof(float));
      for (std::size_t i = 0; i < values.size(); ++i) values[i] = std::sin(0.7f * static_cast<float>(i * i % 1009));
      EXPECT_TRUE(writer->write(tensor.name, values.data(), values.size() * sizeof(float)).ok());
    }
    EXPECT_TRUE(writer->commit({{"format", "pt"}}).ok());
    return path(name);
  }
};

TEST_F(Command, HelpsWithEveryCommand) {
  const Outcome help = machete("--help");
  EXPECT_EQ(help.status, 0);
  for (const std::string command :
       {"info", "list", "explain", "quantize", "inspect", "convert", "verify", "bench", "tune"}) {
    EXPECT_THAT(help.out, HasSubstr(command));
    const Outcome outcome = machete(command + " --help");
    EXPECT_EQ(outcome.status, 0);
    EXPECT_THAT(outcome.out, HasSubstr("Usage: "));
  }
  EXPECT_THAT(machete("--version").out, StartsWith("machete "));
}

TEST_F(Command, AnswersWrongUsageWithStatus2) {
  EXPECT_EQ(machete("").status, 2);
  EXPECT_THAT(failure("frobnicate", 2), HasSubstr("frobnicate"));
  EXPECT_THAT(failure("info --frobnicate", 2), HasSubstr("machete info --help"));
  EXPECT_THAT(failure("explain 1 2", 2), HasSubstr("K"));
  EXPECT_THAT(failure("list 1", 2), HasSubstr("N"));
  EXPECT_THAT(failure("explain 1 2 x", 2), HasSubstr("x"));
  EXPECT_THAT(failure("explain 1 64 64 --a int7", 2), HasSubstr("int7"));
  EXPECT_THAT(failure("explain 1 64 64 --group-size 17", 2), HasSubstr("multiple of 16"));
  EXPECT_THAT(failure("explain 1 64 64 --device cuda:x", 2), HasSubstr("cuda:NUMBER"));
  EXPECT_THAT(failure("quantize model.safetensors", 2), HasSubstr("--output"));
  EXPECT_THAT(failure("verify", 2), HasSubstr("FILE"));
  EXPECT_THAT(failure("verify x --m 0", 2), HasSubstr("0"));
  EXPECT_THAT(failure("tune", 2), HasSubstr("--output"));
  EXPECT_THAT(failure("tune -o t.json --shape 64", 2), HasSubstr("'64'"));
  EXPECT_THAT(failure("tune -o t.json --a bf16,f16", 2), HasSubstr("--a"));
  EXPECT_THAT(failure("tune -o t.json --except gem", 2), HasSubstr("gem"));
  EXPECT_THAT(failure("bench --schedule a,b", 2), HasSubstr("'b' is a second schedule"));
  EXPECT_THAT(failure("bench --schedule o=a,o=b", 2), HasSubstr("'o=b' is a second schedule for o"));
  EXPECT_THAT(failure("bench --schedule o=", 2), HasSubstr("'o=' names no schedule"));
}

TEST_F(Command, NamesThePythonPackageForItsCommands) {
  for (const std::string name : {"plot", "bench-torch"}) {
    for (const char* arguments : {"", " --help", " results.json"}) {
      EXPECT_THAT(failure(name + arguments, 2),
                  HasSubstr(name + " is of the Python package: python -m machete " + name));
    }
  }
}

TEST_F(Command, DescribesItself) {
  const Json info = json("info");
  EXPECT_FALSE(info["version"].get<std::string>().empty());
  EXPECT_FALSE(info["kernels"].empty());
  EXPECT_TRUE(info["build"]["cuda"].is_boolean());
  EXPECT_EQ(json("list")["kernels"].size(), info["kernels"].size());
  EXPECT_THAT(machete("info").out, HasSubstr("kernel"));
  EXPECT_THAT(machete("info").out, Not(HasSubstr("\033"))) << "colours are for terminals";
}

TEST_F(Command, ExplainsAndLists) {
  const Json explained = json("explain 16 300 200 --device cpu --group-size 64 --a f16");
  EXPECT_EQ(explained["problem"]["n"], 300);
  EXPECT_EQ(explained["problem"]["a_type"], "f16");
  ASSERT_FALSE(explained["candidates"].empty());
  const Json listed = json("list 16 300 200 --device cpu --group-size 64 --a f16");
  EXPECT_EQ(listed["schedules"], explained["candidates"]);
  const auto name = explained["schedule"].get<std::string>();
  EXPECT_EQ(json("explain 16 300 200 --device cpu --schedule " + name)["schedule"], name);
  EXPECT_THAT(failure("explain 16 300 200 --device cpu --schedule nonsense", 1), HasSubstr("nonsense"));
  EXPECT_THAT(failure("explain -- -1 300 200", 1), HasSubstr("-1"));
}

TEST_F(Command, QuantizesAndVerifies) {
  write_model();
  for (const char* group_size : {"-1", "16", "64", "128"}) {
    const Json done = json(fmt::format("quantize model.safetensors -o q.safetensors --group-size={}", group_size));
    ASSERT_EQ(done["layers"].size(), 2u);
    EXPECT_EQ(done["total"]["kept_tensors"], 2);
    EXPECT_GT(done["layers"][0]["quantization_error"], 0);
    const Json verified = json("verify q.safetensors --reference model.safetensors --m 5 --device cpu");
    EXPECT_TRUE(verified["passed"].get<bool>()) << verified.dump(2);
    EXPECT_EQ(verified["tensors_as_in_reference"], 2);
    ASSERT_EQ(verified["layers"].size(), 2u);
    ASSERT_EQ(verified["layers"][0]["runs"].size(), 2u);
    EXPECT_EQ(verified["layers"][0]["quantization_error"], done["layers"][0]["quantization_error"]);
  }
  const Outcome table = machete("verify --device cpu --a bf16 q.safetensors");
  EXPECT_EQ(table.status, 0) << table.err;
  EXPECT_THAT(table.out, HasSubstr("passed: all 2 layers"));
}

TEST_F(Command, QuantizesTheSameBytesTwice) {
  write_model();
  ASSERT_EQ(machete("quantize model.safetensors -o 1.safetensors").status, 0);
  ASSERT_EQ(machete("quantize . -o 2.safetensors").status, 1) << "the folder now holds two checkpoints";
  ASSERT_EQ(machete("quantize model.safetensors -o 2.safetensors").status, 0);
  EXPECT_EQ(get(path("1.safetensors")), get(path("2.safetensors")));
}

TEST_F(Command, ChoosesLayersByGlob) {
  write_model();
  const auto names = [this](const std::string& options) {
    const Json done = json("quantize model.safetensors --dry-run " + options);
    std::vector<std::string> found;
    for (const Json& layer : done["layers"]) found.push_back(layer["name"]);
    std::sort(found.begin(), found.end());
    return found;
  };
  EXPECT_EQ(names(""), (std::vector<std::string>{"a", "b"}));
  EXPECT_EQ(names("--skip a"), (std::vector<std::string>{"b"}));
  EXPECT_EQ(names("--only 'embed*' --only b.weight"), (std::vector<std::string>{"b", "embeddings"}));
  EXPECT_THAT(failure("quantize model.safetensors --dry-run --only c", 1), HasSubstr("'c' matches no"));
  EXPECT_THAT(failure("quantize model.safetensors --dry-run --skip '*'", 1), HasSubstr("no linear layer"));
}

TEST_F(Command, RefusesToQuantizeWhatItShouldNot) {
  const std::string model = write_model();
  const std::string before = get(model);
  EXPECT_THAT(failure("quantize model.safetensors -o ./model.safetensors", 1), HasSubstr("part of the input"));
  EXPECT_EQ(get(model), before);
  EXPECT_THAT(failure("quantize absent.safetensors -o q.safetensors", 1), HasSubstr("absent.safetensors"));
  EXPECT_THAT(failure("quantize model.safetensors -o absent/q.safetensors", 1), HasSubstr("absent/"));
  ASSERT_EQ(machete("quantize model.safetensors -o q.safetensors").status, 0);
  EXPECT_THAT(failure("quantize q.safetensors -o r.safetensors", 1), HasSubstr("quantised already"));
  EXPECT_THAT(failure("verify model.safetensors", 1), HasSubstr("no machete manifest"));
}

TEST_F(Command, InspectsAndConverts) {
  write_model();
  const Json plain = json("inspect model.safetensors");
  ASSERT_EQ(plain["layers"].size(), 2u);
  EXPECT_EQ(plain["layers"][0]["format"], "float");
  EXPECT_EQ(plain["layers"][0]["next"], "machete quantize");
  EXPECT_THAT(failure("convert model.safetensors -o c.safetensors", 1), HasSubstr("machete inspect"));

  // One layer of GPTQ, 24 x 128 in groups of 32 with act-order, zero points 8, and a bias.
  const std::vector<formats::TensorInfo> tensors = {{"up.qweight", "I32", {16, 24}},
                                                    {"up.qzeros", "I32", {4, 3}},
                                                    {"up.scales", "F16", {4, 24}},
                                                    {"up.g_idx", "I32", {128}},
                                                    {"up.bias", "F16", {24}}};
  auto writer = formats::SafetensorsWriter::create(path("gptq.safetensors"), tensors, {});
  ASSERT_TRUE(writer.ok());
  std::vector<std::uint32_t> qweight(16 * 24);
  for (std::size_t i = 0; i < qweight.size(); ++i) qweight[i] = static_cast<std::uint32_t>(i * 2654435761u);
  const std::vector<std::uint32_t> qzeros(4 * 3, 0x77777777u);
  const std::vector<std::uint16_t> scales(4 * 24, 0x2C00);
  const std::vector<std::uint16_t> bias(24, 0x3C00);
  std::vector<std::int32_t> g_idx;
  for (int k = 0; k < 128; ++k) g_idx.push_back(k % 4);
  ASSERT_TRUE(writer->write("up.qweight", qweight.data(), qweight.size() * 4).ok());
  ASSERT_TRUE(writer->write("up.qzeros", qzeros.data(), qzeros.size() * 4).ok());
  ASSERT_TRUE(writer->write("up.scales", scales.data(), scales.size() * 2).ok());
  ASSERT_TRUE(writer->write("up.g_idx", g_idx.data(), g_idx.size() * 4).ok());
  ASSERT_TRUE(writer->write("up.bias", bias.data(), bias.size() * 2).ok());
  ASSERT_TRUE(writer->commit({}).ok());

  const Json seen = json("inspect gptq.safetensors");
  ASSERT_EQ(seen["layers"].size(), 1u);
  EXPECT_EQ(seen["layers"][0]["format"], "gptq");
  EXPECT_EQ(seen["layers"][0]["type"], "u4b8");
  EXPECT_EQ(seen["layers"][0]["group_size"], 32);
  EXPECT_EQ(seen["layers"][0]["next"], "machete convert");
  EXPECT_EQ(seen["layers"][0]["act_order"], true);
  const Json runs = seen["layers"][0]["activations"];
  ASSERT_GE(runs.size(), 4u);  // the CPU's, and CUDA's where it is built
  for (const Json& each : runs) EXPECT_EQ(each["round_scales"], false) << each;  // 1/16 has a value everywhere
  EXPECT_EQ(runs[0]["backend"], "cpu");
  EXPECT_EQ(runs[0]["a_type"], "bf16");
  EXPECT_THAT(machete("inspect gptq.safetensors").out, HasSubstr("32 act-order"));
  EXPECT_THAT(machete("inspect gptq.safetensors").out, HasSubstr("cpu: bf16, f16, s8, e4m3"));
  const Json done = json("convert gptq.safetensors -o c.safetensors");
  EXPECT_EQ(done["layers"].size(), 1u);
  EXPECT_EQ(done["kept_tensors"], 1);
  EXPECT_TRUE(json("verify c.safetensors --m 3 --device cpu")["passed"].get<bool>());
  EXPECT_EQ(json("inspect c.safetensors")["layers"][0]["next"], "runs");
  EXPECT_THAT(machete("inspect c.safetensors").out, HasSubstr("1 linear layer."));
  {
    // Scales with more bits than bf16 has.
    auto rough = formats::SafetensorsWriter::create(
        path("rough.safetensors"), {{"w.weight", "I8", {8, 16}}, {"w.weight_scale", "F16", {8, 1}}}, {});
    ASSERT_TRUE(rough.ok());
    const std::vector<std::int8_t> codes(8 * 16, 1);
    const std::vector<std::uint16_t> odd(8, 0x2C01);
    ASSERT_TRUE(rough->write("w.weight", codes.data(), codes.size()).ok());
    ASSERT_TRUE(rough->write("w.weight_scale", odd.data(), odd.size() * 2).ok());
    ASSERT_TRUE(rough->commit({}).ok());
    EXPECT_THAT(machete("inspect rough.safetensors").out, HasSubstr("cpu: bf16*, f16, s8*"));
    EXPECT_THAT(machete("inspect rough.safetensors").out, HasSubstr("* with --round-scales"));
  }
  for (const char* to : {"gptq", "pack-quantized"}) {  // act-order goes out, and comes in again
    json(fmt::format("convert c.safetensors --to {} -o {}", to, to));
    json(fmt::format("convert {} -o again.safetensors", to));
    const auto before = formats::Checkpoint::open(path("c.safetensors"));
    const auto after = formats::Checkpoint::open(path("again.safetensors"));
    ASSERT_TRUE(before.ok() && after.ok());
    ASSERT_EQ(before->tensors().size(), 4u);
    for (const formats::Tensor& tensor : before->tensors()) {
      ASSERT_NE(after->find(tensor.name), nullptr) << to << " " << tensor.name;
      EXPECT_EQ(formats::copy_bytes(tensor), formats::copy_bytes(*after->find(tensor.name)))
          << to << " " << tensor.name;
    }
  }
  EXPECT_THAT(failure("convert c.safetensors -o d.safetensors", 1), HasSubstr("our format already"));
  EXPECT_THAT(failure("convert gptq.safetensors -o gptq.safetensors", 1), HasSubstr("part of the input"));
  EXPECT_THAT(failure("convert gptq.safetensors", 2), HasSubstr("--output"));
}

// What other tools write is ours after convert, and what convert writes for them is the same again after another.
TEST_F(Command, ConvertsToOtherTools) {
  write_model();
  struct Case {
    const char *type, *group_size, *to, *back;
  };
  for (const Case& each :
       {Case{"u4b8", "64", "gptq", "u4b8"}, Case{"u4", "32", "gptq_v2", "u4"}, Case{"u8", "32", "gptq_v2", "u8"},
        Case{"s8", "-1", "gptq", "u8b128"}, Case{"u8", "-1", "pack-quantized", "u8"},
        Case{"u8b128", "-1", "pack-quantized", "u8b128"}, Case{"s4", "-1", "pack-quantized", "u4b8"}}) {
    SCOPED_TRACE(fmt::format("{} in groups of {} to {}", each.type, each.group_size, each.to));
    json(fmt::format("quantize model.safetensors -o q.safetensors --type {} --group-size={} --only a", each.type,
                     each.group_size));
    const Json done = json(fmt::format("convert q.safetensors --to {} -o other", each.to));
    EXPECT_EQ(done["to"], each.to);
    EXPECT_EQ(done["layers"][0]["format"], "machete");
    const Json config = Json::parse(get(path("other/config.json")));
    EXPECT_TRUE(config["quantization_config"]["quant_method"].is_string());
    const Json seen = json("inspect other");
    EXPECT_EQ(seen["layers"][0]["format"], each.to);
    EXPECT_EQ(seen["layers"][0]["type"], each.back);
    json("convert other -o back.safetensors");
    EXPECT_TRUE(json("verify back.safetensors --m 2 --device cpu")["passed"].get<bool>());
    const auto before = formats::Checkpoint::open(path("q.safetensors"));
    const auto after = formats::Checkpoint::open(path("back.safetensors"));
    ASSERT_TRUE(before.ok() && after.ok());
    ASSERT_EQ(before->tensors().size(), after->tensors().size());
    if (std::string(each.type) == each.back) {
      for (const formats::Tensor& tensor : before->tensors()) {
        ASSERT_NE(after->find(tensor.name), nullptr) << tensor.name;
        EXPECT_EQ(formats::copy_bytes(tensor), formats::copy_bytes(*after->find(tensor.name))) << tensor.name;
      }
    }
    fs::remove_all(path("other"));
  }
}

TEST_F(Command, RefusesToConvertWhatOthersCannotHold) {
  write_model();
  json("quantize model.safetensors -o q.safetensors --group-size 64");
  EXPECT_THAT(failure("convert q.safetensors --to gptq -o other", 1),
              AllOf(HasSubstr("layer \"b\""), HasSubstr("N=17 and K=129"), HasSubstr("multiples of 8")));
  EXPECT_THAT(failure("convert q.safetensors --to pack-quantized -o other", 1), HasSubstr("do not divide K=72"));
  EXPECT_FALSE(fs::exists(path("other"))) << "nothing is left of a failure";
  EXPECT_THAT(failure("convert q.safetensors --to awq -o other", 2), HasSubstr("awq"));
  json("quantize model.safetensors -o q.safetensors --group-size=-1 --only a");
  fs::create_directory(path("other"));
  std::ofstream(path("other/config.json")) << "{}";
  EXPECT_THAT(failure("convert q.safetensors --to gptq -o other", 1), HasSubstr("config.json: exists already"));
  EXPECT_EQ(get(path("other/config.json")), "{}");
  EXPECT_THAT(failure("convert q.safetensors --to gptq -o absent/other", 1), HasSubstr("cannot make the folder"));
  std::ofstream(path("config.json")) << "{ broken";
  EXPECT_THAT(failure("convert q.safetensors --to gptq -o third", 1), HasSubstr("config.json"));
}

TEST_F(Command, NoticesDamage) {
  write_model();
  ASSERT_EQ(machete("quantize model.safetensors -o q.safetensors").status, 0);
  const std::string whole = get(path("q.safetensors"));
  const auto damage = [&](const char* tensor) {
    const Result<formats::Checkpoint> checkpoint = formats::Checkpoint::open(path("q.safetensors"));
    const auto* first = static_cast<const char*>(checkpoint->files()[0].tensors()[0].data);
    const auto* data = static_cast<const char*>(checkpoint->find(tensor)->data);
    std::size_t bytes = 0;
    for (const auto& each : checkpoint->tensors()) bytes += each.bytes;
    std::string damaged = whole;
    char& byte = damaged[whole.size() - bytes + static_cast<std::size_t>(data - first) + 1];
    byte = static_cast<char>(byte ^ 0x10);
    std::ofstream(path("d.safetensors"), std::ios::binary) << damaged;
  };
  damage("a.qweight");
  const Json verified = json("verify d.safetensors --reference model.safetensors --device cpu", 1);
  EXPECT_FALSE(verified["passed"].get<bool>());
  EXPECT_THAT(verified["faults"][0], HasSubstr("the manifest says"));
  damage("a.bias");
  EXPECT_THAT(machete("verify d.safetensors --reference model.safetensors --device cpu").err,
              HasSubstr("\"a.bias\": differs"));
  std::ofstream(path("d.safetensors"), std::ios::binary) << whole.substr(0, whole.size() / 2);
  EXPECT_THAT(failure("verify d.safetensors", 1), HasSubstr("d.safetensors"));
}

TEST_F(Command, WritesWhatCallsCostTheHost) {
  EXPECT_EQ(machete("bench --host-cost --device cpu --json cost.json").status, 0);
  const Json cost = Json::parse(get(path("cost.json")));
  EXPECT_EQ(cost["device"], "cpu");
  const Json call = cost["calls"]["run, M=1"];
  EXPECT_GT(call["fastest_us"].get<double>(), 0);
  EXPECT_GE(call["median_us"].get<double>(), call["fastest_us"].get<double>());
  EXPECT_THAT(failure("bench --host-cost --device cpu --json nowhere/cost.json", 1),
              HasSubstr("cannot write nowhere/cost.json"));
}

TEST_F(Command, SaysWhereTheBenchmarkCannotRun) {
  if (json("info")["build"]["cuda"].get<bool>()) GTEST_SKIP() << "this build has a CUDA backend";
  EXPECT_THAT(failure("bench --suite llama8b", 1), HasSubstr("no CUDA backend"));
  EXPECT_THAT(failure("tune -o table.json", 1), HasSubstr("no CUDA backend"));
}

}  // namespace
}  // namespace machete

#endif  // MACHETE_COMMAND
