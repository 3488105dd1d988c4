#include "reference/linear.h"

#include <fmt/format.h>

#include "kernels/prepack/host.h"
#include "reference/gemm.h"

namespace machete::reference {
namespace {

// Read off kernels/layout through its host functions, so that the order is written down in one place only: a tile whose
// 64 bytes of a row number themselves, three bits at a time, decodes to the number of the byte that holds each k.
PackedOrder derive_order() {
  constexpr int kTileK = PackedOrder::kTileK;
  const packing::Shape tile = packing::shape_of(PackedOrder::kStripRows, kTileK, -1);
  PackedOrder order{};
  std::int32_t byte_of_k[kTileK] = {};
  for (int shift = 0; shift < 6; shift += 3) {
    std::uint8_t bytes[PackedOrder::kTileBytes] = {};
    for (int b = 0; b < kTileK; ++b) bytes[b] = static_cast<std::uint8_t>(b >> shift & 7);
    std::int8_t values[PackedOrder::kStripRows * kTileK];
    packing::decode_strip(bytes, tile, 0, values);
    for (int k = 0; k < kTileK; ++k) byte_of_k[k] |= values[k] << shift;
  }
  for (int k = 0; k < kTileK; ++k) order.k_of_byte[byte_of_k[k]] = k;
  for (int row = 0; row < PackedOrder::kStripRows; ++row) {
    order.place_of_scale[row] = static_cast<std::int32_t>(packing::scale_index(tile, row, 0));
  }
  return order;
}

Status check(const Problem& problem, const PackedWeight& weight) {
  const PackedHeader& header = weight.header();
  if (weight.device() != Device::cpu()) {
    return {StatusCode::kIncompatible, "the weight lies on a CUDA device; copy_to(weight, Device::cpu()) first"};
  }
  if (header.type != WeightType::kU4b8) {
    return {StatusCode::kUnsupported,
            fmt::format("weight type {} is not served by the CPU backend; quantise to u4b8", name_of(header.type))};
  }
  if (header.n != problem.n || header.k != problem.k || header.group_size != problem.group_size) {
    return {StatusCode::kIncompatible,
            fmt::format("the weight is [{}, {}] with group_size {}, the problem [{}, {}] with group_size {}; plan for "
                        "the weight at hand",
                        header.n, header.k, header.group_size, problem.n, problem.k, problem.group_size)};
  }
  return {};
}

}  // namespace

Status linear(const Problem& problem, const void* a, const PackedWeight& weight, void* d, InstructionSet set) {
  if (Status status = check(problem, weight); !status.ok()) return status;
  static const PackedOrder order = derive_order();
  const packing::Shape shape = packing::shape_of(problem.n, problem.k, problem.group_size);
  GemmArguments arguments{};
  arguments.m = problem.m;
  arguments.n = problem.n;
  arguments.k = problem.k;
  arguments.lda = problem.lda > 0 ? problem.lda : problem.k;
  arguments.ldd = problem.ldd > 0 ? problem.ldd : problem.n;
  arguments.a = a;
  arguments.a_type = problem.a_type;
  arguments.weights = static_cast<const std::uint8_t*>(weight.weights());
  arguments.scales = weight.scales();
  arguments.scale_type = weight.header().scale_type;
  arguments.group_size = shape.packed_group_size;
  arguments.groups = shape.packed_groups;
  arguments.d = d;
  arguments.d_type = problem.d_type;
  arguments.order = &order;
  gemm(arguments, set);
  return {};
}

}  // namespace machete::reference
