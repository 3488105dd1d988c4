#include "kernels/prepack/host.h"

#include <array>
#include <cstring>

#include "kernels/convert/u4b8.h"
#include "kernels/layout/weight_layout.h"

namespace machete::packing {
namespace {

using convert::U4b8;
using layout::kStripRows;
using layout::kTileBytes;
using layout::kTileElements;
using layout::kTileK;

// element of a tile, in memory order -> row + 16 k. A table, because evaluating the layout costs more than the copy.
constexpr std::array<std::uint16_t, kTileElements> make_tile_order() {
  std::array<std::uint16_t, kTileElements> order{};
  constexpr auto tile = layout::tile_layout();
  for (int k = 0; k < kTileK; ++k) {
    for (int row = 0; row < kStripRows; ++row) {
      order[static_cast<std::size_t>(tile(row, k))] = static_cast<std::uint16_t>(row + kStripRows * k);
    }
  }
  return order;
}
constexpr std::array<std::uint16_t, kTileElements> kTileOrder = make_tile_order();

std::uint8_t nibble(const std::uint8_t* bytes, std::int64_t index) {
  return (bytes[index / 2] >> (index % 2 * 4)) & 15u;
}

// Calls visit(element of the tile, n, k) for every element of every tile, and next(tile) before each tile.
template <class Next, class Visit>
void for_each_element(const Shape& shape, Next next, Visit visit) {
  const std::int64_t tiles_k = shape.k_padded / kTileK;
  for (std::int64_t strip = 0; strip < shape.n_padded / kStripRows; ++strip) {
    for (std::int64_t tile = 0; tile < tiles_k; ++tile) {
      next(strip * tiles_k + tile);
      for (int e = 0; e < kTileElements; ++e) {
        const int place = kTileOrder[static_cast<std::size_t>(e)];
        visit(e, strip * kStripRows + place % kStripRows, tile * kTileK + place / kStripRows);
      }
    }
  }
}

}  // namespace

void pack_weights(const std::uint8_t* q, const Shape& shape, std::uint8_t* packed) {
  const std::int64_t row_bytes = (shape.k + 1) / 2;
  std::uint8_t* tile = nullptr;
  for_each_element(
      shape,
      [&](std::int64_t t) {
        tile = packed + t * kTileBytes;
        std::memset(tile, 0, kTileBytes);
      },
      [&](int e, std::int64_t n, std::int64_t k) {
        if (n >= shape.n || k >= shape.k) return;
        const unsigned stored = U4b8::encode(nibble(q + n * row_bytes, k));
        tile[e / 2] = static_cast<std::uint8_t>(tile[e / 2] | (stored << (e % 2 * 4)));
      });
}

void unpack_weights(const std::uint8_t* packed, const Shape& shape, std::uint8_t* q) {
  const std::int64_t row_bytes = (shape.k + 1) / 2;
  std::memset(q, 0, static_cast<std::size_t>(shape.n * row_bytes));
  const std::uint8_t* tile = nullptr;
  for_each_element(
      shape, [&](std::int64_t t) { tile = packed + t * kTileBytes; },
      [&](int e, std::int64_t n, std::int64_t k) {
        if (n >= shape.n || k >= shape.k) return;
        std::uint8_t& byte = q[n * row_bytes + k / 2];
        byte = static_cast<std::uint8_t>(byte | (U4b8::decode(nibble(tile, e)) << (k % 2 * 4)));
      });
}

std::int64_t scale_index(const Shape& shape, std::int64_t n, std::int64_t k) {
  const std::int64_t group = k / shape.packed_group_size;
  const std::int64_t strip = n / kStripRows;
  return (strip * shape.packed_groups + group) * kStripRows + layout::scale_layout()(static_cast<int>(n % kStripRows));
}

void pack_scales(const std::uint16_t* scales, const Shape& shape, std::uint16_t* packed) {
  for (std::int64_t n = 0; n < shape.n_padded; ++n) {
    for (std::int64_t group = 0; group < shape.packed_groups; ++group) {
      const std::int64_t k = group * shape.packed_group_size;
      const bool padding = n >= shape.n || k >= shape.k;
      packed[scale_index(shape, n, k)] = padding ? std::uint16_t{0} : scales[shape.source_group(group) * shape.n + n];
    }
  }
}

void unpack_scales(const std::uint16_t* packed, const Shape& shape, std::uint16_t* scales) {
  for (std::int64_t group = 0; group < shape.groups(); ++group) {
    const std::int64_t k = group * (shape.group_size < 0 ? 0 : shape.group_size);
    for (std::int64_t n = 0; n < shape.n; ++n) scales[group * shape.n + n] = packed[scale_index(shape, n, k)];
  }
}

void decode_strip(const std::uint8_t* packed, const Shape& shape, std::int64_t strip, std::int8_t* values) {
  const std::int64_t tiles_k = shape.k_padded / kTileK;
  for (std::int64_t t = 0; t < tiles_k; ++t) {
    const std::uint8_t* tile = packed + (strip * tiles_k + t) * kTileBytes;
    for (int e = 0; e < kTileElements; ++e) {
      const int place = kTileOrder[static_cast<std::size_t>(e)];
      values[place % kStripRows * shape.k_padded + t * kTileK + place / kStripRows] =
          static_cast<std::int8_t>(U4b8::value(nibble(tile, e)));
    }
  }
}

}  // namespace machete::packing
