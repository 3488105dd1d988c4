#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "machete/types.h"

/// The inner loops of the CPU backend, compiled once for each instruction set and chosen at run time.
namespace machete::reference {

/// How 64 k's of a packed tile lie in memory: a run of 64 bytes holds row r in its low nibbles and row r + 8 in its
/// high ones, as the two's complement of q - 8. Both follow this order, which serves activations as well as weights: a
/// sum over k may be taken in any.
struct PackedOrder {
  static constexpr int kTileK = 64;
  static constexpr int kTileBytes = 512;
  static constexpr int kStripRows = 16;

  std::int32_t k_of_byte[kTileK];
  std::int32_t place_of_scale[kStripRows];  // of a row's scale among its strip's
};

struct GemmArguments {
  std::int64_t m, n, k, lda, ldd;
  const void* a;  // [M, K] of a_type
  DataType a_type;
  const std::uint8_t* weights;  // [strips][tiles][512]
  const void* scales;           // [strips][groups][16] of scale_type
  DataType scale_type;
  std::int64_t group_size, groups;  // as packed
  void* d;                          // [M, N] of d_type
  DataType d_type;
  const PackedOrder* order;
};

enum class InstructionSet { kBaseline, kAvx2, kAvx512 };

std::string_view name_of(InstructionSet set);

/// Those this processor has, best last; the baseline is what the compiler takes for granted.
std::vector<InstructionSet> supported_instruction_sets();
InstructionSet best_instruction_set();

void gemm(const GemmArguments& arguments, InstructionSet set);

namespace baseline {
void gemm(const GemmArguments& arguments);
}
namespace avx2 {
void gemm(const GemmArguments& arguments);
}
namespace avx512 {
void gemm(const GemmArguments& arguments);
}

}  // namespace machete::reference
