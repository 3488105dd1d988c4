#include "bench/suite.h"

namespace machete::bench {
namespace {

std::vector<Suite> make_suites() {
  std::vector<Suite> suites;

  // Llama 3.1: hidden 4096 (8192), intermediate 14336 (28672), 8 key-value heads of 128.
  suites.push_back(
      {"llama8b", {{"qkv", 6144, 4096}, {"o", 4096, 4096}, {"gate_up", 28672, 4096}, {"down", 4096, 14336}}, true});
  suites.push_back(
      {"llama70b", {{"qkv", 10240, 8192}, {"o", 8192, 8192}, {"gate_up", 57344, 8192}, {"down", 8192, 28672}}, true});

  Suite square{"square", {}, false};
  for (std::int64_t size = 1024; size <= 16384; size *= 2) square.shapes.push_back({std::to_string(size), size, size});
  suites.push_back(square);

  // DeepSeek-V3: hidden 7168; attention through ranks 1536 (queries) and 512 + 64 (keys and values), 128 heads of
  // 128 + 64 for queries and 128 for values; dense layers 18432 wide, the shared expert 2048.
  suites.push_back({"deepseek",
                    {{"qkv_a", 1536 + 512 + 64, 7168},
                     {"q_b", 128 * (128 + 64), 1536},
                     {"kv_b", 128 * (128 + 128), 512},
                     {"o", 7168, 128 * 128},
                     {"gate_up", 2 * 18432, 7168},
                     {"down", 7168, 18432},
                     {"shared_gate_up", 2 * 2048, 7168},
                     {"shared_down", 7168, 2048}},
                    false});

  // Sizes that tiles do not divide: small models, K an odd multiple of 16, N and K of no factor at all.
  suites.push_back({"odd",
                    {{"smollm_qkv", 960, 576},
                     {"smollm_down", 576, 1536},
                     {"minilm_up", 1536, 384},
                     {"k_16_mod_32", 4096, 4112},
                     {"n_8_mod_16", 4104, 4096},
                     {"both", 5000, 3056},
                     {"narrow", 40, 8208},
                     {"k_4_mod_8", 4100, 4100},
                     {"prime", 4099, 4093}},
                    false});
  return suites;
}

}  // namespace

std::vector<std::string> suite_names() {
  std::vector<std::string> names;
  for (const Suite& suite : make_suites()) names.push_back(suite.name);
  return names;
}

Result<Suite> find_suite(std::string_view name) {
  std::string known;
  for (const Suite& suite : make_suites()) {
    if (suite.name == name) return suite;
    known += known.empty() ? suite.name : ", " + suite.name;
  }
  return Status(StatusCode::kInvalidArgument, "there is no suite '" + std::string(name) + "'; choose from " + known);
}

}  // namespace machete::bench
