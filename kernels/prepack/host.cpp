#include "kernels/prepack/host.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "kernels/convert/braid.h"
#include "kernels/layout/weight_layout.h"

namespace machete::packing {
namespace {

using convert::Braid;
using convert::Coding;
using layout::kStripRows;
using layout::kTileBytes;

// A table, because evaluating the layout costs more than the copy.
template <int kBits, int kActivationBits>
constexpr auto make_places() {
  std::array<Place, kStripRows * tile_k(kBits)> places{};
  const auto tile = layout::tile_layout<kBits, kActivationBits>();
  for (int k = 0; k < tile_k(kBits); ++k) {
    for (int row = 0; row < kStripRows; ++row) {
      places[static_cast<std::size_t>(tile(row, k))] = {static_cast<std::uint8_t>(row), static_cast<std::uint8_t>(k)};
    }
  }
  return places;
}
template <int kBits, int kActivationBits>
constexpr auto kPlaces = make_places<kBits, kActivationBits>();

template <int kBits>
std::uint8_t element(const std::uint8_t* bytes, std::int64_t index) {
  if constexpr (kBits == 8) return bytes[index];
  return (bytes[index / 2] >> (index % 2 * 4)) & 15u;
}

// To bytes that are zero there.
template <int kBits>
void set_element(std::uint8_t* bytes, std::int64_t index, std::uint8_t value) {
  std::uint8_t& byte = bytes[index * kBits / 8];
  byte = static_cast<std::uint8_t>(byte | value << (index * kBits % 8));
}

// Words between nibbles and a braid, in place.
template <class Change>
void for_each_word(std::uint8_t* bytes, std::int64_t count, Change change) {
#pragma omp parallel for simd schedule(static) if (count > kTileBytes)
  for (std::int64_t i = 0; i < count; i += 4) {
    std::uint32_t word = 0;
    std::memcpy(&word, bytes + i, 4);
    word = change(word);
    std::memcpy(bytes + i, &word, 4);
  }
}

// Where the k's of a tile come from: its own, or those that the permutation puts there; -1 beyond K.
template <int kBits>
using Columns = std::array<std::int64_t, tile_k(kBits)>;

template <int kBits>
Columns<kBits> columns_of(const Shape& shape, const std::int32_t* permutation, std::int64_t tile) {
  Columns<kBits> columns{};
  for (std::size_t i = 0; i < columns.size(); ++i) {
    const std::int64_t k = tile * tile_k(kBits) + static_cast<std::int64_t>(i);
    columns[i] = k >= shape.k ? -1 : permutation == nullptr ? k : permutation[k];
  }
  return columns;
}

// Calls visit(tile, the 16 rows of the weight it holds, its columns) for every tile, a strip of them by one thread;
// rows beyond N are -1.
template <int kBits, class Visit>
void for_each_tile(const Shape& shape, const std::int32_t* permutation, Visit visit) {
  const std::int64_t tiles_k = shape.k_padded / tile_k(kBits);
#pragma omp parallel for schedule(static)
  for (std::int64_t strip = 0; strip < shape.n_padded / kStripRows; ++strip) {
    std::array<std::int64_t, kStripRows> rows{};
    for (int i = 0; i < kStripRows; ++i) {
      const std::int64_t n = shape.source_row(strip * kStripRows + i);
      rows[static_cast<std::size_t>(i)] = n < shape.n ? n : -1;
    }
    for (std::int64_t tile = 0; tile < tiles_k; ++tile) {
      visit(strip * tiles_k + tile, rows, columns_of<kBits>(shape, permutation, tile));
    }
  }
}

template <int kBits, int kActivationBits>
void pack(const std::uint8_t* q, const Coding& coding, const Shape& shape, const std::int32_t* permutation,
          std::uint8_t* packed) {
  constexpr int kShare = 8 / kBits;  // elements a byte
  const std::int64_t row_bytes = shape.row_bytes();
  for_each_tile<kBits>(shape, permutation, [&](std::int64_t tile, const auto& rows, const auto& columns) {
    std::uint8_t* out = packed + tile * kTileBytes;
    // Most tiles have neither padding nor an order of their own: columns one after another, from a whole byte on.
    if (permutation == nullptr && columns.back() >= 0 && *std::min_element(rows.begin(), rows.end()) >= 0) {
      std::array<const std::uint8_t*, kStripRows> from{};
      for (std::size_t i = 0; i < from.size(); ++i) from[i] = q + rows[i] * row_bytes + columns[0] * kBits / 8;
      const unsigned flip = coding.stored(coding.counted(0));  // the same for every code
      for (std::size_t e = 0; e < kPlaces<kBits, kActivationBits>.size(); e += kShare) {
        unsigned byte = 0;
        for (std::size_t i = 0; i < kShare; ++i) {
          const Place place = kPlaces<kBits, kActivationBits>[e + i];
          byte |= (element<kBits>(from[place.row], place.k) ^ flip) << (i * kBits);
        }
        *out++ = static_cast<std::uint8_t>(byte);
      }
      return;
    }
    for (std::size_t e = 0; e < kPlaces<kBits, kActivationBits>.size(); e += kShare) {
      unsigned byte = 0;
      for (std::size_t i = 0; i < kShare; ++i) {
        const std::int64_t n = rows[kPlaces<kBits, kActivationBits>[e + i].row];
        const std::int64_t k = columns[kPlaces<kBits, kActivationBits>[e + i].k];
        if (n < 0 || k < 0) continue;
        byte |= unsigned{coding.stored(coding.counted(element<kBits>(q + n * row_bytes, k)))} << (i * kBits);
      }
      *out++ = static_cast<std::uint8_t>(byte);
    }
  });
}

template <int kBits, int kActivationBits>
void unpack(const std::uint8_t* packed, const Coding& coding, const Shape& shape, const std::int32_t* permutation,
            std::uint8_t* q) {
  const std::int64_t row_bytes = shape.row_bytes();
  std::memset(q, 0, static_cast<std::size_t>(shape.n * row_bytes));
  for_each_tile<kBits>(shape, permutation, [&](std::int64_t tile, const auto& rows, const auto& columns) {
    std::array<std::uint8_t, kTileBytes> bytes{};
    std::memcpy(bytes.data(), packed + tile * kTileBytes, bytes.size());
    if (coding.braided(shape.activation_bits)) for_each_word(bytes.data(), kTileBytes, Braid::to_nibbles);
    for (std::size_t e = 0; e < kPlaces<kBits, kActivationBits>.size(); ++e) {
      const std::int64_t n = rows[kPlaces<kBits, kActivationBits>[e].row];
      const std::int64_t k = columns[kPlaces<kBits, kActivationBits>[e].k];
      if (n < 0 || k < 0) continue;
      const std::uint8_t u = coding.stored(element<kBits>(bytes.data(), static_cast<std::int64_t>(e)));
      set_element<kBits>(q + n * row_bytes, k, coding.canonical(u));
    }
  });
}

}  // namespace

void pack_weights(const std::uint8_t* q, const Coding& coding, const Shape& shape, const std::int32_t* permutation,
                  std::uint8_t* packed) {
  const bool wide = shape.activation_bits == 16;
  const auto to_order = coding.bits == 8 ? (wide ? pack<8, 16> : pack<8, 8>) : (wide ? pack<4, 16> : pack<4, 8>);
  to_order(q, coding, shape, permutation, packed);
  if (coding.braided(shape.activation_bits)) for_each_word(packed, shape.weight_bytes(), Braid::from_nibbles);
}

void unpack_weights(const std::uint8_t* packed, const Coding& coding, const Shape& shape,
                    const std::int32_t* permutation, std::uint8_t* q) {
  const bool wide = shape.activation_bits == 16;
  const auto from = coding.bits == 8 ? (wide ? unpack<8, 16> : unpack<8, 8>) : (wide ? unpack<4, 16> : unpack<4, 8>);
  from(packed, coding, shape, permutation, q);
}

std::int64_t scale_index(const Shape& shape, std::int64_t n, std::int64_t k) {
  const std::int64_t group = k / shape.packed_group_size;
  const std::int64_t row = shape.packed_row(n);
  const std::int64_t first = (row / kStripRows * shape.packed_groups + group) * kStripRows;
  return first + layout::scale_layout()(static_cast<int>(row % kStripRows));
}

void pack_scales(const std::uint16_t* scales, const Shape& shape, std::uint16_t* packed) {
  std::memset(packed, 0, static_cast<std::size_t>(shape.scale_count()) * 2);
  for (std::int64_t n = 0; n < shape.n; ++n) {
    for (std::int64_t k = 0; k < shape.k; k += shape.packed_group_size) {
      const std::int64_t group = shape.source_group(k / shape.packed_group_size);
      packed[scale_index(shape, n, k)] = scales[group * shape.n + n];
    }
  }
}

void unpack_scales(const std::uint16_t* packed, const Shape& shape, std::uint16_t* scales) {
  for (std::int64_t group = 0; group < shape.groups(); ++group) {
    const std::int64_t k = group * (shape.group_size < 0 ? 0 : shape.group_size);
    for (std::int64_t n = 0; n < shape.n; ++n) scales[group * shape.n + n] = packed[scale_index(shape, n, k)];
  }
}

const Place* tile_places(int bits, int activation_bits) {
  if (activation_bits == 16) return bits == 8 ? kPlaces<8, 16>.data() : kPlaces<4, 16>.data();
  return bits == 8 ? kPlaces<8, 8>.data() : kPlaces<4, 8>.data();
}

}  // namespace machete::packing
