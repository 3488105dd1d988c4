#pragma once

/// What a compiled kernel looks like from the host: plain data, no CuTe, no CUDA headers.

#include <cstddef>
#include <cstdint>

#include "kernels/epilogue/operands.h"
#include "kernels/prepack/shape.h"
#include "machete/types.h"

namespace machete::kernels {

enum class Family {
  kGemm,    // kernels/gemm: any number of tokens
  kBatch,   // kernels/batch: up to 64 tokens
  kTurns,   // kernels/turns: up to 64 tokens, to the bit as kBatch
  kDecode,  // kernels/decode: one or two tokens
};

/// The part of the problem a CTA works on at a time: output features x tokens, taken k at a time.
struct Tile {
  int n;
  int m;
  int k;
};

struct Launch {
  const void* a;                // [M, K] of the activation type, rows lda apart, 16-byte aligned
  const void* weights;          // packed
  const void* scales;           // packed
  const void* zero_points;      // packed; null for types without
  bool fractional_zero_points;  // not all are integers
  float tensor_scale;           // of the whole weight
  void* d;                      // [M, columns] of d_type, rows ldd apart
  DataType d_type;              // of 16 bits that of the kernel's Element, f32 or e4m3
  epilogue::Operands epilogue;
  packing::Shape shape;
  std::int64_t m;
  std::int64_t lda;
  std::int64_t ldd;
  void* workspace;          // 16-byte aligned, of workspace() bytes
  bool stream_k;            // CTAs may share a tile
  int sms;                  // of the device
  bool fast_accumulation;   // of e4m3, over whole groups
  bool overlap;             // programmatic dependent launch: start before the kernel ahead has finished
  void* encode_tensor_map;  // cuTensorMapEncodeTiled
  void* timeline;           // kernels/timeline.h; null but for measurements

  /// Sums become outputs by nothing but rounding.
  bool rounds_only() const { return epilogue.plain() && machete::epilogue::is_16_bits(d_type); }
};

struct Kernel {
  const char* name;  // e.g. "gemm_128x64x128"
  Family family;
  WeightType w_type;
  DataType a_type;
  DataType scale_type;  // of scales, bias, residual, and of D where that has 16 bits
  Tile tile;
  int ctas_per_sm;
  bool stream_k;      // can share tiles among CTAs
  bool aligned_rows;  // of A must start on 16 bytes
  bool epilogues;     // serves the named ones, and outputs of f32 and e4m3
  bool fast_only;     // for problems with fast_accumulation: all its sums stay in the tensor cores
  int order;          // kernels with the same, if not 0, add in the same order: a token gets the same bits from each
  const void* function;
  int (*shared_memory)(const packing::Shape&);                         // bytes a CTA
  const char* (*refusal)(const packing::Shape&, std::int64_t tokens);  // why it cannot serve a problem, or null
  // Bytes of workspace, of any content; null: none.
  std::size_t (*workspace)(const packing::Shape&, std::int64_t tokens, int sms, bool stream_k);
  int (*prepare)();  // a cudaError_t; once a device, outside of captures
  int (*launch)(const Launch&,
                void* stream);  // a cudaError_t; TMA descriptors and launch, no allocation, no synchronisation
};

struct KernelList {
  const Kernel* kernels;
  int size;
};

}  // namespace machete::kernels
