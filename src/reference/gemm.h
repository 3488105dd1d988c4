#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "machete/types.h"

/// The inner loops of the CPU backend, compiled once for each instruction set and chosen at run time.
namespace machete::reference {

class RowEpilogue;

/// How a packed tile lies in memory: eight runs of 64 bytes, of which run r holds rows r and r + 8 in the same order of
/// k, which serves activations as well as weights, since a sum over k may be taken in any. The places of a row in a run
/// are, of 4-bit weights, the low nibbles, and the high ones for row r + 8; of 8-bit weights the first `row_bytes` of
/// every twice as many, and the others.
struct PackedOrder {
  static constexpr int kTileBytes = 512;
  static constexpr int kStripRows = 16;
  static constexpr int kMaxTileK = 64;

  int tile_k;
  int row_bytes;
  std::int32_t k_of_place[kMaxTileK];
  std::int32_t place_of_scale[kStripRows];  // of a row's scale among its strip's
};

struct GemmArguments {
  std::int64_t m, rows, k, lda, ldd;  // rows as packed, a multiple of 64 ...
  std::int64_t strips;                // ... and how many strips of 16 hold more than padding
  const void* a;                      // [M, K] of a_type
  DataType a_type;
  const float* a_values;            // [256], of 8-bit activations by their codes; null for 16 bit
  const std::int32_t* permutation;  // [K]: which k of A meets each packed one; null: its own
  int bits;                         // of a weight: 4 or 8
  const float* values;              // [2^bits], of floating-point codes; null for integers
  bool braided;                     // the bits of the codes (kernels/convert/braid.h)
  const std::uint8_t* weights;      // [strips][tiles][512]
  const void* scales;               // [strips][groups][16] of scale_type
  const void* zero_points;          // the same; null if they are all in the middle of the codes, or 0 with values
  float tensor_scale;               // times the sums
  DataType scale_type;
  std::int64_t group_size, groups;  // as packed
  void* d;                          // [M, columns] of d_type
  DataType d_type;
  const RowEpilogue* epilogue;
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
