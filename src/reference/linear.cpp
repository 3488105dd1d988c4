#include "reference/linear.h"

#include <fmt/format.h>

#include <array>

#include "kernels/convert/coding.h"
#include "kernels/prepack/host.h"
#include "reference/epilogue.h"
#include "reference/gemm.h"

namespace machete::reference {
namespace {

// Read off kernels/layout through its host functions, so that the order is written down in one place only.
PackedOrder derive_order(int bits, int activation_bits) {
  PackedOrder order{};
  order.tile_k = packing::tile_k(bits);
  const packing::Place* places = packing::tile_places(bits, activation_bits);
  int place = 0;
  for (int element = 0; element < PackedOrder::kStripRows * order.tile_k; ++element) {
    if (places[element].row == 0) order.k_of_place[place++] = places[element].k;
  }
  // Bytes until the row changes for the first time.
  while (bits == 8 && places[order.row_bytes].row == 0) ++order.row_bytes;
  const packing::Shape tile =
      packing::shape_of(PackedOrder::kStripRows, order.tile_k, -1, bits, false, activation_bits);
  for (int row = 0; row < PackedOrder::kStripRows; ++row) {
    order.place_of_scale[row] = static_cast<std::int32_t>(packing::scale_index(tile, row, 0));
  }
  return order;
}

const PackedOrder& order_of(int bits, int activation_bits) {
  static const PackedOrder orders[] = {derive_order(4, 16), derive_order(8, 16), derive_order(4, 8),
                                       derive_order(8, 8)};
  return orders[(bits == 8 ? 1 : 0) + (activation_bits == 8 ? 2 : 0)];
}

// The values of 8-bit activations' codes.
const float* values_of(DataType type) {
  static const auto integers = [] {
    std::array<float, 256> values{};
    for (int code = 0; code < 256; ++code) values[static_cast<std::size_t>(code)] = static_cast<std::int8_t>(code);
    return values;
  }();
  return type == DataType::kS8 ? integers.data() : type == DataType::kE4m3 ? convert::kE4m3Values.data() : nullptr;
}

Status check(const Problem& problem, const PackedWeight& weight) {
  const PackedHeader& header = weight.header();
  if (weight.device() != Device::cpu()) {
    return {StatusCode::kIncompatible, "the weight lies on a CUDA device; copy_to(weight, Device::cpu()) first"};
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

Status linear(const Problem& problem, const Arguments& given, InstructionSet set) {
  const PackedWeight& weight = *given.weight;
  if (Status status = check(problem, weight); !status.ok()) return status;
  const int bits = bits_of(weight.header().type);
  const bool swiglu = weight.header().swiglu != 0;
  const int activation_bits = weight.header().activation_bits;
  const packing::Shape shape =
      packing::shape_of(problem.n, problem.k, problem.group_size, bits, swiglu, activation_bits);
  const RowEpilogue epilogue(problem, given);
  GemmArguments arguments{};
  arguments.m = problem.m;
  arguments.rows = shape.n_padded;
  arguments.strips = (problem.n + PackedOrder::kStripRows - 1) / PackedOrder::kStripRows;
  arguments.k = problem.k;
  arguments.lda = problem.lda > 0 ? problem.lda : problem.k;
  arguments.ldd = problem.ldd > 0 ? problem.ldd : problem.d_columns();
  arguments.a = given.a;
  arguments.a_type = problem.a_type;
  arguments.a_values = values_of(problem.a_type);
  arguments.weights = static_cast<const std::uint8_t*>(weight.weights());
  arguments.permutation = weight.permutation();
  arguments.bits = bits;
  const convert::Coding coding = convert::coding_of(weight.header().type);
  arguments.values = coding.values;
  arguments.braided = coding.braided(weight.header().activation_bits);
  arguments.scales = weight.scales();
  arguments.tensor_scale = weight.header().tensor_scale == 0 ? 1 : weight.header().tensor_scale;
  arguments.zero_points = weight.zero_points();
  arguments.scale_type = weight.header().scale_type;
  arguments.group_size = shape.packed_group_size;
  arguments.groups = shape.packed_groups;
  arguments.d = given.d;
  arguments.d_type = problem.d_type;
  arguments.epilogue = &epilogue;
  arguments.order = &order_of(bits, activation_bits);
  gemm(arguments, set);
  return {};
}

}  // namespace machete::reference
