// libFuzzer targets, one a reader: built with -DMACHETE_FUZZ_<READER>. Bytes lie in memory of their own size, so that
// the address sanitizer sees every read beside them.
#include <fmt/format.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "formats/checkpoint.h"
#include "formats/config.h"
#include "formats/foreign.h"
#include "formats/gguf.h"
#include "formats/manifest.h"
#include "formats/safetensors.h"
#include "machete/weight.h"

namespace {

using namespace machete;           // NOLINT(google-build-using-namespace)
using namespace machete::formats;  // NOLINT(google-build-using-namespace)

void require(bool condition) {
  if (!condition) std::abort();
}

/// An error must say something, on one line.
void check(const Status& status) {
  require(status.ok() || (!status.message().empty() && status.message().find('\n') == std::string::npos));
}

/// Reads every layer, as inspect and convert do, and touches every byte of what comes of it.
void read_layers(const Checkpoint& checkpoint) {
  if (checkpoint.metadata().count(Manifest::kKey) != 0) {
    const Result<Manifest> manifest = read_manifest(checkpoint);
    check(manifest.status());
    if (!manifest.ok()) return;
    for (const QuantizedLayer& layer : manifest->layers) {
      const reference::QuantizedTensor weight = read_layer(checkpoint, layer);
      require(static_cast<std::int64_t>(weight.qweight.size()) == weight.n * weight.view().row_bytes());
    }
  }
  const Result<std::vector<ForeignLayer>> layers = find_foreign_layers(checkpoint);
  check(layers.status());
  if (!layers.ok()) return;
  for (const ForeignLayer& layer : *layers) {
    require(layer.format != nullptr && !layer.parts.empty());
    if (!layer.obstacle.empty()) continue;
    const Result<reference::QuantizedTensor> weight = read_foreign_layer(checkpoint, layer);
    check(weight.status());
    if (!weight.ok()) continue;
    require(static_cast<std::int64_t>(weight->qweight.size()) == layer.n * weight->view().row_bytes());
    require(weight->scales.size() == static_cast<std::size_t>(layer.groups() * layer.n) * bytes_of(layer.scale_type));
  }
}

void read_tensors(const TensorFile& file) {
  std::uint64_t sum = 0;
  for (const Tensor& tensor : file.tensors()) {
    const auto* bytes = static_cast<const std::uint8_t*>(tensor.data);
    for (std::size_t i = 0; i < tensor.bytes; ++i) sum += bytes[i];
    if (is_floating(tensor.dtype)) check(to_floats(tensor).status());
  }
  asm volatile("" : : "r"(sum));  // so that the sum is made
}

void read(Result<TensorFile> file, const QuantizationConfig& config) {
  check(file.status());
  if (!file.ok()) return;
  read_tensors(*file);
  read_layers(Checkpoint::of(*std::move(file), config));
}

[[maybe_unused]] void read_safetensors(const std::uint8_t* data, std::size_t size, const QuantizationConfig& config) {
  read(parse_safetensors("fuzz", FileBytes::of({data, data + size})), config);
}

#ifdef MACHETE_FUZZ_LAYERS
/// Turns bytes into a file whose container is sound, so that the fuzzer's work goes into the layers: how many tensors,
/// each with a name of one layer, a dtype and a shape, and then the data.
class LayerFile {
 public:
  LayerFile(const std::uint8_t* data, std::size_t size) : data_(data), size_(size) {}

  std::vector<std::uint8_t> build() {
    static const char* const kSuffixes[] = {".qweight",
                                            ".qzeros",
                                            ".scales",
                                            ".g_idx",
                                            ".weight",
                                            ".weight_packed",
                                            ".weight_scale",
                                            ".weight_shape",
                                            ".weight_g_idx",
                                            "_blocks",
                                            "_scales",
                                            ".weight_scale_inv",
                                            ".bias",
                                            ".zero_points",
                                            ".weight_zero_point",
                                            "",
                                            ".weight_global_scale"};
    static const char* const kDtypes[] = {"I32", "F16", "BF16",    "F32",     "I64",
                                          "I8",  "U8",  "F8_E4M3", "F8_E5M2", "F8_E8M0"};
    static constexpr int kBytes[] = {4, 2, 2, 4, 8, 1, 1, 1, 1, 1};
    std::string header = "{";
    std::size_t end = 0;
    const int count = next() % 8;
    std::uint32_t used = 0;
    for (int i = 0; i < count; ++i) {
      const int suffix = next() % 17;
      const int dtype = next() % 10;
      if ((used >> suffix & 1u) != 0) continue;
      used |= 1u << suffix;
      std::string shape;
      std::size_t bytes = static_cast<std::size_t>(kBytes[dtype]);
      const int dimensions = next() % 5;
      for (int d = 0; d < dimensions; ++d) {
        const std::size_t length = next();
        shape += fmt::format("{}{}", d == 0 ? "" : ",", length);
        bytes *= length;
      }
      if (end + bytes > kMost) return {};
      header += fmt::format(R"({}"x{}":{{"dtype":"{}","shape":[{}],"data_offsets":[{},{}]}})", header == "{" ? "" : ",",
                            kSuffixes[suffix], kDtypes[dtype], shape, end, end + bytes);
      end += bytes;
    }
    header += "}";
    std::vector<std::uint8_t> file(8 + header.size() + end);
    for (std::size_t i = 0; i < 8; ++i) file[i] = static_cast<std::uint8_t>(header.size() >> (8 * i));
    std::copy(header.begin(), header.end(), file.begin() + 8);
    for (std::size_t i = 0; i < end; ++i) file[8 + header.size() + i] = size_ == 0 ? 0 : next();
    return file;
  }

 private:
  static constexpr std::size_t kMost = 1 << 14;
  std::uint8_t next() { return at_ < size_ ? data_[at_++] : 0; }
  const std::uint8_t* data_;
  std::size_t size_;
  std::size_t at_ = 0;
};
#endif

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
#if defined(MACHETE_FUZZ_GGUF)
  read(parse_gguf("fuzz", FileBytes::of({data, data + size})), QuantizationConfig());
#elif defined(MACHETE_FUZZ_SAFETENSORS)
  read_safetensors(data, size, QuantizationConfig());
#elif defined(MACHETE_FUZZ_LAYERS)
  if (size < 1) return 0;
  QuantizationConfig config;
  config.checkpoint_format = (data[0] & 1) != 0 ? "gptq_v2" : "gptq";
  config.method = (data[0] & 2) != 0 ? "awq" : (data[0] & 4) != 0 ? "compressed-tensors" : "";
  if ((data[0] & 8) != 0) config.block_size = {128, 64};
  if ((data[0] & 16) != 0) config.schemes = {{4, 32}, {8, -1}};
  if ((data[0] & 32) != 0) config.format = "pack-quantized";
  const std::vector<std::uint8_t> file = LayerFile(data + 1, size - 1).build();
  read_safetensors(file.data(), file.size(), config);
#elif defined(MACHETE_FUZZ_CONFIG)
  // The files in the order in which they are read, a zero byte between them.
  QuantizationConfig config;
  std::string_view rest(reinterpret_cast<const char*>(data), size);
  for (const char* name : {"quantize_config.json", "quant_config.json", "config.json"}) {
    const std::string_view text = rest.substr(0, rest.find('\0'));
    rest.remove_prefix(std::min(rest.size(), text.size() + 1));
    if (!text.empty()) check(add_config(name, text, config));
  }
#else
#error "name the reader: MACHETE_FUZZ_GGUF, MACHETE_FUZZ_SAFETENSORS, MACHETE_FUZZ_LAYERS or MACHETE_FUZZ_CONFIG"
#endif
  return 0;
}
