// Reading and writing safetensors: what is written is read back, and nothing a hostile file says crashes the reader.
#include "formats/safetensors.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "formats/checkpoint.h"
#include "formats/manifest.h"
#include "tests/cpu/folder.h"

namespace machete::formats {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;
using ::testing::Not;

class Safetensors : public tests::FolderTest {
 protected:
  std::string put(const std::string& bytes, const std::string& name = "test.safetensors") const {
    std::ofstream(path(name), std::ios::binary) << bytes;
    return path(name);
  }

  std::size_t files_in_folder() const {
    return static_cast<std::size_t>(std::distance(fs::directory_iterator(folder_), fs::directory_iterator()));
  }

  /// Opens a file that must be refused, and returns why.
  std::string refusal(const std::string& bytes) const {
    const Result<TensorFile> file = open_safetensors(put(bytes));
    EXPECT_FALSE(file.ok());
    EXPECT_THAT(file.status().message(), HasSubstr("test.safetensors"));
    EXPECT_EQ(file.status().message().find('\n'), std::string::npos);
    return file.status().message();
  }
};

std::string with_length(std::uint64_t length, const std::string& rest) {
  std::string bytes(8, '\0');
  for (std::size_t i = 0; i < 8; ++i) bytes[i] = static_cast<char>(length >> (8 * i) & 0xff);
  return bytes + rest;
}

std::string file_of(const std::string& header, std::size_t data_bytes) {
  return with_length(header.size(), header + std::string(data_bytes, '\x2a'));
}

std::string entry(const std::string& dtype, const std::string& shape, const std::string& offsets) {
  return fmt::format(R"({{"dtype":"{}","shape":{},"data_offsets":{}}})", dtype, shape, offsets);
}

/// Reads every byte of every tensor; a sanitiser or a fault tells if one lies outside the mapping.
std::uint64_t touch(const TensorFile& file) {
  std::uint64_t sum = 0;
  for (const Tensor& tensor : file.tensors()) {
    const auto* bytes = static_cast<const std::uint8_t*>(tensor.data);
    for (std::size_t i = 0; i < tensor.bytes; ++i) sum += bytes[i];
  }
  return sum;
}

std::string small_file() {
  return file_of(R"({"__metadata__":{"a":"b"},"x":)" + entry("F32", "[2,3]", "[0,24]") + R"(,"y":)" +
                     entry("U8", "[]", "[24,25]") + "}",
                 25);
}

TEST_F(Safetensors, ReadsAFile) {
  const Result<TensorFile> file = open_safetensors(put(small_file()));
  ASSERT_TRUE(file.ok()) << file.status().message();
  ASSERT_EQ(file->tensors().size(), 2u);
  const Tensor* x = file->find("x");
  ASSERT_NE(x, nullptr);
  EXPECT_EQ(x->dtype, "F32");
  EXPECT_EQ(x->shape, (std::vector<std::int64_t>{2, 3}));
  EXPECT_EQ(x->bytes, 24u);
  EXPECT_EQ(file->find("z"), nullptr);
  EXPECT_EQ(file->metadata(), (Metadata{{"a", "b"}}));
  EXPECT_EQ(touch(*file), 25u * 0x2a);
}

TEST_F(Safetensors, AcceptsEmptyTensorsAndPaddedHeaders) {
  const std::string header = R"({"b":)" + entry("F32", "[0,7]", "[0,0]") + R"(,"a":)" + entry("I8", "[2]", "[0,2]") +
                             R"(,"c":)" + entry("F16", "[0]", "[2,2]") + "}   ";
  const Result<TensorFile> file = open_safetensors(put(file_of(header, 2)));
  ASSERT_TRUE(file.ok()) << file.status().message();
  EXPECT_EQ(file->tensors().size(), 3u);
  EXPECT_TRUE(open_safetensors(put(file_of("{}", 0))).ok());
}

TEST_F(Safetensors, RefusesEveryTruncation) {
  const std::string whole = small_file();
  for (std::size_t length = 0; length < whole.size(); ++length) {
    const Result<TensorFile> file = open_safetensors(put(whole.substr(0, length)));
    EXPECT_FALSE(file.ok()) << "cut to " << length << " bytes";
  }
}

TEST_F(Safetensors, SurvivesEveryFlippedBit) {
  const std::string whole = small_file();
  for (std::size_t i = 0; i < whole.size() - 25; ++i) {
    for (int bit = 0; bit < 8; ++bit) {
      std::string damaged = whole;
      damaged[i] = static_cast<char>(damaged[i] ^ 1 << bit);
      const Result<TensorFile> file = open_safetensors(put(damaged));
      if (file.ok()) touch(*file);  // a name or dtype may have become another one; nothing may be read outside
    }
  }
}

TEST_F(Safetensors, RefusesHeadersOfImpossibleLength) {
  for (std::uint64_t length :
       {std::uint64_t{3}, std::uint64_t{1} << 32, std::uint64_t{1} << 63, ~std::uint64_t{0}, ~std::uint64_t{0} - 7}) {
    EXPECT_THAT(refusal(with_length(length, "{}")), HasSubstr("header"));
  }
  EXPECT_THAT(refusal(with_length(0, "{}")), HasSubstr("must begin with '{'"));
}

TEST_F(Safetensors, RefusesHeadersBeyondTheFormatsLimit) {
  const std::string name = put(with_length(kMaxSafetensorsHeader + 1, "{}"));
  fs::resize_file(name, 8 + kMaxSafetensorsHeader + 1);  // sparse
  const Result<TensorFile> file = open_safetensors(name);
  ASSERT_FALSE(file.ok());
  EXPECT_THAT(file.status().message(), HasSubstr("exceeds the limit of 100000000"));
}

TEST_F(Safetensors, RefusesWhatIsNoHeader) {
  EXPECT_THAT(refusal(file_of("[]", 0)), HasSubstr("must begin with '{'"));
  EXPECT_THAT(refusal(file_of("{\"x\":", 0)), HasSubstr("no JSON"));
  EXPECT_THAT(refusal(file_of("{} x", 0)), HasSubstr("no JSON"));
  EXPECT_THAT(refusal(file_of("{\"x\xff\":1}", 0)), HasSubstr("no JSON"));
  EXPECT_THAT(refusal(file_of(R"({"x":3})", 0)), HasSubstr("must be an object"));
  EXPECT_THAT(refusal(file_of(R"({"x":{"dtype":"F32","shape":[]}})", 0)), HasSubstr("data_offsets is missing"));
  EXPECT_THAT(refusal(file_of(R"({"x":{"dtype":3,"shape":[],"data_offsets":[0,0]}})", 0)), HasSubstr("dtype must be"));
  EXPECT_THAT(refusal(file_of(R"({"__metadata__":{"a":1}})", 0)), HasSubstr("must be a string"));
  EXPECT_THAT(refusal(file_of(R"({"__metadata__":"a"})", 0)), HasSubstr("object of strings"));
  EXPECT_THAT(refusal(file_of("{\"x\":1e999}", 0)), HasSubstr("no JSON"));
  EXPECT_THAT(refusal(file_of("{\"x\":" + std::string(1'000'000, '['), 0)), HasSubstr("nests"));
}

TEST_F(Safetensors, RefusesContradictoryTensors) {
  const auto tensor = [this](const std::string& json, std::size_t data) {
    return refusal(file_of(R"({"x":)" + json + "}", data));
  };
  EXPECT_THAT(tensor(entry("F31", "[1]", "[0,4]"), 4), HasSubstr("dtype \"F31\" is unknown"));
  EXPECT_THAT(tensor(entry("F32", "[-1]", "[0,4]"), 4), HasSubstr("shape holds -1"));
  EXPECT_THAT(tensor(entry("F32", "[1.0]", "[0,4]"), 4), HasSubstr("shape holds 1.0"));
  EXPECT_THAT(tensor(entry("F32", "[\"1\"]", "[0,4]"), 4), HasSubstr("shape holds"));
  EXPECT_THAT(tensor(entry("F32", "1", "[0,4]"), 4), HasSubstr("shape must be a list"));
  EXPECT_THAT(tensor(entry("F32", "[18446744073709551615]", "[0,4]"), 4), HasSubstr("2^63"));
  EXPECT_THAT(tensor(entry("F32", "[4294967296,4294967296]", "[0,0]"), 0), HasSubstr("2^63"));
  EXPECT_THAT(tensor(entry("F32", "[1]", "[4,0]"), 4), HasSubstr("end before they begin"));
  EXPECT_THAT(tensor(entry("F32", "[1]", "[-4,0]"), 4), HasSubstr("data_offsets holds -4"));
  EXPECT_THAT(tensor(entry("F32", "[1]", "[0,4,8]"), 8), HasSubstr("3 numbers"));
  EXPECT_THAT(tensor(entry("F32", "[2]", "[0,8]"), 4), HasSubstr("reach past"));
  EXPECT_THAT(tensor(entry("F32", "[2]", "[0,4]"), 4), HasSubstr("takes 8"));
  EXPECT_THAT(tensor(entry("F4", "[3]", "[0,2]"), 2), HasSubstr("multiple of 8"));
  EXPECT_THAT(tensor(entry("F32", "[1]", "[0,4]"), 5), HasSubstr("nothing else"));
  EXPECT_THAT(tensor(entry("F32", "[1]", "[4,8]"), 8), HasSubstr("gaps"));
}

TEST_F(Safetensors, RefusesOverlapsAndDuplicates) {
  const std::string first = entry("U8", "[4]", "[0,4]"), second = entry("U8", "[4]", "[2,6]");
  EXPECT_THAT(refusal(file_of(R"({"x":)" + first + R"(,"y":)" + second + "}", 6)), HasSubstr("overlap"));
  EXPECT_THAT(refusal(file_of(R"({"x":)" + first + R"(,"y":)" + first + "}", 4)), HasSubstr("overlap"));
  EXPECT_THAT(refusal(file_of(R"({"x":)" + first + R"(,"x":)" + first + "}", 4)), HasSubstr("occurs twice"));
  EXPECT_THAT(refusal(file_of(R"({"x":{"dtype":"U8","dtype":"U8","shape":[4],"data_offsets":[0,4]}})", 4)),
              HasSubstr("occurs twice"));
}

TEST_F(Safetensors, RefusesNamesThatATerminalWouldObey) {
  const std::string message = refusal(file_of(R"({"\u001b[2J":)" + entry("U8", "[1]", "[0,1]") + "}", 1));
  EXPECT_THAT(message, HasSubstr("control characters"));
  EXPECT_THAT(message, Not(HasSubstr("\033")));
  EXPECT_THAT(refusal(file_of(R"({"":)" + entry("U8", "[1]", "[0,1]") + "}", 1)), HasSubstr("name is empty"));
}

TEST_F(Safetensors, RefusesWhatIsNoFile) {
  EXPECT_EQ(open_safetensors(path("absent.safetensors")).status().code(), StatusCode::kIo);
  EXPECT_EQ(open_safetensors(path("")).status().code(), StatusCode::kIo);
}

// --- Writing
// ----------------------------------------------------------------------------------------------------------

Status write_small(const std::string& path, const std::string& value = "v", bool reversed = false) {
  Result<SafetensorsWriter> writer = SafetensorsWriter::create(
      path, {{"bytes", "U8", {3}}, {"numbers", "F32", {2}}, {"none", "I64", {0, 5}}}, {{"key", "longest"}});
  if (!writer.ok()) return writer.status();
  const float numbers[2] = {1.5f, -2};
  for (int i = 0; i < 2; ++i) {
    Status status = (i == 0) != reversed ? writer->write("bytes", "abc", 3) : writer->write("numbers", numbers, 8);
    if (!status.ok()) return status;
  }
  if (Status status = writer->write("none", nullptr, 0); !status.ok()) return status;
  return writer->commit({{"key", value}});
}

TEST_F(Safetensors, WritesWhatItReads) {
  const Status status = write_small(path("w.safetensors"));
  ASSERT_TRUE(status.ok()) << status.message();
  const Result<TensorFile> file = open_safetensors(path("w.safetensors"));
  ASSERT_TRUE(file.ok()) << file.status().message();
  EXPECT_EQ(file->metadata(), (Metadata{{"key", "v"}}));
  const Tensor* bytes = file->find("bytes");
  const Tensor* numbers = file->find("numbers");
  ASSERT_TRUE(bytes != nullptr && numbers != nullptr && file->find("none") != nullptr);
  EXPECT_EQ(std::memcmp(bytes->data, "abc", 3), 0);
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(numbers->data) % 8, 0u);
  const Result<std::vector<float>> values = to_floats(*numbers);
  ASSERT_TRUE(values.ok());
  EXPECT_EQ(*values, (std::vector<float>{1.5f, -2}));
  EXPECT_EQ(files_in_folder(), 1u);
}

TEST_F(Safetensors, WritesEqualBytesForEqualInput) {
  ASSERT_TRUE(write_small(path("1.safetensors")).ok());
  ASSERT_TRUE(write_small(path("2.safetensors"), "v", /*reversed=*/true).ok());
  EXPECT_EQ(get(path("1.safetensors")), get(path("2.safetensors")));
}

TEST_F(Safetensors, WritesAllOrNothing) {
  const std::string target = put("what was there");
  {
    Result<SafetensorsWriter> writer = SafetensorsWriter::create(target, {{"x", "U8", {1}}}, {});
    ASSERT_TRUE(writer.ok());
    EXPECT_THAT(writer->commit({}).message(), HasSubstr("never written"));
    EXPECT_THAT(writer->write("x", "ab", 2).message(), HasSubstr("2 bytes given"));
    EXPECT_THAT(writer->write("y", "a", 1).message(), HasSubstr("not announced"));
    EXPECT_TRUE(writer->write("x", "a", 1).ok());
    EXPECT_THAT(writer->write("x", "a", 1).message(), HasSubstr("twice"));
    EXPECT_THAT(writer->commit({{"k", std::string(100, 'x')}}).message(), HasSubstr("grew"));
  }
  EXPECT_EQ(get(target), "what was there");
  EXPECT_EQ(files_in_folder(), 1u);
}

TEST_F(Safetensors, WriterRefusesWhatTheReaderWould) {
  const auto refused = [this](std::vector<TensorInfo> tensors, const std::string& name = "w.safetensors") {
    const Result<SafetensorsWriter> writer = SafetensorsWriter::create(path(name), std::move(tensors), {});
    EXPECT_FALSE(writer.ok());
    return writer.status().message();
  };
  EXPECT_THAT(refused({{"x", "U8", {1}}, {"x", "U8", {1}}}), HasSubstr("twice"));
  EXPECT_THAT(refused({{"x", "U9", {1}}}), HasSubstr("unknown"));
  EXPECT_THAT(refused({{"x", "U8", {-1}}}), HasSubstr("negative"));
  EXPECT_THAT(refused({{"x\n", "U8", {1}}}), HasSubstr("cannot be written"));
  EXPECT_THAT(refused({{"__metadata__", "U8", {1}}}), HasSubstr("cannot be written"));
  EXPECT_THAT(refused({{"\xff", "U8", {1}}}), HasSubstr("UTF-8"));
  EXPECT_THAT(refused({}, "absent/w.safetensors"), HasSubstr("cannot create"));
  EXPECT_THAT(refused({}, ""), HasSubstr("no regular file"));
  EXPECT_EQ(files_in_folder(), 0u);
}

// --- Checkpoints
// ------------------------------------------------------------------------------------------------------

class CheckpointFolder : public Safetensors {
 protected:
  CheckpointFolder() {
    put(file_of(R"({"__metadata__":{"format":"pt"},"x":)" + entry("U8", "[2]", "[0,2]") + "}", 2), "1.safetensors");
    put(file_of(R"({"y":)" + entry("U8", "[3]", "[0,3]") + "}", 3), "2.safetensors");
  }

  Result<Checkpoint> open_index(const std::string& weight_map) const {
    return Checkpoint::open(put(R"({"metadata":{},"weight_map":)" + weight_map + "}", "m.safetensors.index.json"));
  }
};

TEST_F(CheckpointFolder, ReadsShards) {
  const Result<Checkpoint> checkpoint = open_index(R"({"x":"1.safetensors","y":"2.safetensors"})");
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status().message();
  EXPECT_EQ(checkpoint->tensors().size(), 2u);
  ASSERT_NE(checkpoint->find("y"), nullptr);
  EXPECT_EQ(checkpoint->find("y")->bytes, 3u);
  EXPECT_EQ(checkpoint->find("z"), nullptr);
  EXPECT_EQ(checkpoint->metadata(), (Metadata{{"format", "pt"}}));

  const Result<Checkpoint> by_folder = Checkpoint::open(path(""));
  ASSERT_TRUE(by_folder.ok()) << by_folder.status().message();
  EXPECT_EQ(by_folder->tensors().size(), 2u);
}

TEST_F(CheckpointFolder, RefusesBadIndices) {
  for (const char* shard : {"../1.safetensors", "/1.safetensors", "a\\\\1.safetensors", "..", "1.bin", ""}) {
    const Result<Checkpoint> checkpoint = open_index(fmt::format(R"({{"x":"{}"}})", shard));
    ASSERT_FALSE(checkpoint.ok()) << shard;
    EXPECT_THAT(checkpoint.status().message(), HasSubstr("plain name")) << shard;
  }
  EXPECT_THAT(open_index(R"({"x":"2.safetensors"})").status().message(), HasSubstr("is not in the shard"));
  EXPECT_THAT(open_index(R"({"x":"3.safetensors"})").status().message(), HasSubstr("3.safetensors"));
  EXPECT_THAT(open_index(R"({"x":1})").status().message(), HasSubstr("must be a string"));
  EXPECT_THAT(open_index("[]").status().message(), HasSubstr("weight_map"));
  EXPECT_THAT(open_index("{").status().message(), HasSubstr("no JSON"));
}

TEST_F(CheckpointFolder, AsksWhichOneWhereAFolderHoldsSeveral) {
  EXPECT_THAT(Checkpoint::open(path("")).status().message(), HasSubstr("several"));
  fs::create_directory(path("empty"));
  EXPECT_THAT(Checkpoint::open(path("empty")).status().message(), HasSubstr("holds no"));
}

TEST_F(Safetensors, ConvertsToFloatsAtAnyAlignment) {
  std::string data = "?";                          // moves what follows to odd addresses
  data += std::string("\x80\x3f\x40\xc0", 4);      // bf16 1, -3
  data += std::string("\x00\x3c\x01\x00", 4);      // f16 1, 2^-24
  data += std::string("\0\0\0\0\0\0\xf8\xbf", 8);  // f64 -1.5
  const std::string header = R"({"pad":)" + entry("U8", "[1]", "[0,1]") + R"(,"b":)" + entry("BF16", "[2]", "[1,5]") +
                             R"(,"h":)" + entry("F16", "[2]", "[5,9]") + R"(,"d":)" + entry("F64", "[1]", "[9,17]") +
                             "}";
  const Result<TensorFile> file = open_safetensors(put(with_length(header.size(), header + data)));
  ASSERT_TRUE(file.ok()) << file.status().message();
  EXPECT_EQ(*to_floats(*file->find("b")), (std::vector<float>{1, -3}));
  EXPECT_EQ(*to_floats(*file->find("h")), (std::vector<float>{1, 0x1p-24f}));
  EXPECT_EQ(*to_floats(*file->find("d")), (std::vector<float>{-1.5f}));
  EXPECT_FALSE(to_floats(*file->find("pad")).ok());
}

// --- The manifest
// -----------------------------------------------------------------------------------------------------

class ManifestFile : public Safetensors {
 protected:
  static QuantizedLayer layer() {
    QuantizedLayer layer;
    layer.name = "l";
    layer.source = "l.weight";
    layer.source_dtype = "F32";
    layer.n = 2;
    layer.k = 17;
    layer.group_size = 16;
    layer.error = 0.1;
    return layer;
  }

  /// A file with the layer's tensors and this manifest.
  Result<Manifest> read_back(const std::string& manifest) const {
    const std::string name = path("q.safetensors");
    const Metadata metadata = {{Manifest::kKey, manifest}};
    Result<SafetensorsWriter> writer = SafetensorsWriter::create(name, layer().tensors(), metadata);
    if (!writer.ok()) return writer.status();
    for (const TensorInfo& tensor : layer().tensors()) {
      const std::vector<std::uint8_t> bytes(static_cast<std::size_t>(*bytes_of_tensor(tensor)), 1);
      if (Status status = writer->write(tensor.name, bytes.data(), bytes.size()); !status.ok()) return status;
    }
    if (Status status = writer->commit(metadata); !status.ok()) return status;
    const Result<Checkpoint> checkpoint = Checkpoint::open(name);
    if (!checkpoint.ok()) return checkpoint.status();
    Result<Manifest> read = read_manifest(*checkpoint);
    if (read.ok() && !read->layers.empty()) {
      EXPECT_EQ(read_layer(*checkpoint, read->layers[0]).qweight.size(), 18u);
    }
    return read;
  }
};

TEST_F(ManifestFile, SaysAllThatReadingBackNeeds) {
  Manifest manifest;
  manifest.layers.push_back(layer());
  EXPECT_GE(manifest.widest().to_json().size(), manifest.to_json().size());
  const Result<Manifest> read = read_back(manifest.to_json());
  ASSERT_TRUE(read.ok()) << read.status().message();
  ASSERT_EQ(read->layers.size(), 1u);
  EXPECT_EQ(read->to_json(), manifest.to_json());
}

TEST_F(ManifestFile, RefusesWhatContradictsTheFile) {
  const auto message = [this](const std::string& from, const std::string& to) {
    Manifest manifest;
    manifest.layers.push_back(layer());
    std::string json = manifest.to_json();
    const std::size_t at = json.find(from);
    EXPECT_NE(at, std::string::npos) << from;
    const Result<Manifest> read = read_back(json.replace(at, from.size(), to));
    EXPECT_FALSE(read.ok()) << to;
    return read.status().message();
  };
  EXPECT_THAT(message(R"("k":17)", R"("k":19)"), HasSubstr("shape"));
  EXPECT_THAT(message(R"("n":2)", R"("n":-2)"), HasSubstr("n and k"));
  EXPECT_THAT(message(R"("n":2)", R"("n":18446744073709551615)"), HasSubstr("n and k"));
  EXPECT_THAT(message(R"("n":2)", R"("n":281474976710655)"), HasSubstr("shape"));
  EXPECT_THAT(message(R"("n":2,)", ""), HasSubstr("key 'n' not found"));
  EXPECT_THAT(message(R"("group_size":16)", R"("group_size":0)"), HasSubstr("group_size"));
  EXPECT_THAT(message(R"("type":"u4b8")", R"("type":"u5")"), HasSubstr("u5"));
  EXPECT_THAT(message(R"("type":"u4b8")", R"("type":"u4")"), HasSubstr("zero_points\" is missing"));
  EXPECT_THAT(message(R"("scale_type":"bf16")", R"("scale_type":"f16")"), HasSubstr("must be F16"));
  EXPECT_THAT(message(R"("version":1)", R"("version":2)"), HasSubstr("version 2"));
  EXPECT_THAT(message("{", "["), HasSubstr("manifest"));
}

// However the process ends, nothing half-written is left, where the file system knows files without names.
TEST_F(Safetensors, AKilledWriterLeavesNothing) {
  const int unnamed = ::open(fs::path(path("x")).parent_path().c_str(), O_WRONLY | O_TMPFILE | O_CLOEXEC, 0666);
  if (unnamed < 0) GTEST_SKIP() << "this file system has no files without names";
  ::close(unnamed);
  const pid_t child = ::fork();
  if (child == 0) {
    const std::string bytes(1000, 'x');
    auto writer = SafetensorsWriter::create(path("killed.safetensors"), {{"a", "U8", {1000}}}, {});
    if (writer.ok()) static_cast<void>(writer->write("a", bytes.data(), bytes.size()));
    ::kill(::getpid(), SIGKILL);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFSIGNALED(status));
  EXPECT_EQ(files_in_folder(), 0u);
}

}  // namespace
}  // namespace machete::formats
