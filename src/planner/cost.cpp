#include "planner/cost.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "kernels/prepack/shape.h"
#include "kernels/turns/share.h"

namespace machete::planner {
namespace {

double ceil_div(double a, double b) { return std::ceil(a / b); }

// Clocks of one m64nNk16 with A in registers, measured (docs/design-notes.md): below n32 the instruction does not get
// cheaper.
double mma_clocks(int tokens) { return tokens <= 16 ? 13 : tokens / 2.0; }

// The constants below are fitted to the sweeps in tuning/sweeps, M = 1...2048, five weight types. Their choice is at
// most 2.3% slower than the best, 0.6% on average (4% at M = 256 of e2m1; geometric means at each M), 17% in the worst
// case.

// Clocks of a step of 128 k a CTA: those of unpacking 128 rows of 4 or 8 bits, and of keeping the ring going.
constexpr double kUnpackClocks = 505;
constexpr double kUnpackClocks8 = 1015;
constexpr double kStepClocks = 72;
// The same with 8-bit activations: codes that are looked up (4 bits to e4m3), that are masked, that are as they are;
// and what a token of the tile costs where sums are scaled step by step. Fitted to bench/results/bytes: the choice
// is 1.3% slower than the best (geometric mean), 11% in the worst case.
constexpr double kLookUpClocks = 500;
constexpr double kMaskClocks = 300;
constexpr double kFetchClocks = 200;
constexpr double kScaleClocks = 1.5;
// What hides behind the other of unpacking and MMA still costs a part of itself.
constexpr double kHiddenPart = 0.5;
constexpr double kStoreClocks = 0.061;     // of an element of D
constexpr double kTailMicroseconds = 0.4;  // launch, first loads, last store
constexpr double kExchangeMicroseconds = 4.3;
constexpr double kGivenBytesPerMicrosecond = 7.5e4;  // a CTA takes
// What L2 delivers where CTAs work at different k: their requests for activations no longer coincide.
constexpr double kScatteredL2TbS = 6.3;

// How much of memory's time a busier CTA adds where tiles do not divide by the SMs.
constexpr double kUnevenPart = 0.82;

// The batch family: weights a clock that an SM would consume but for the MMAs of each eight tokens and for what every
// slot costs, and everything else.
constexpr double kBatchRate = 81;
constexpr double kBatchRate8 = 53;  // of 8 bits
constexpr double kBatchOctet = 0.58;
constexpr double kBatchSlot = 1.03;   // shared by the strips
constexpr double kBatchSlot8 = 2.08;  // which are half as deep
constexpr double kBatchMicroseconds = 2.7;

// The decode family: weights a clock that an SM consumes with many strips and eight columns of digits, what the integer
// planes of 4096 activations cost, and everything else. Fitted like the above, to M = 1 and 2: the mean error is 8%.
constexpr double kDecodeRate = 60;
constexpr double kPlanesMicroseconds = 0.09;
constexpr double kDecodeMicroseconds = 4.4;

// Of 128 rows and 128 k.
double unpack_clocks(const Problem& problem) {
  const bool wide = bits_of(problem.w_type) == 8;
  if (bits_of(problem.a_type) == 16) return wide ? kUnpackClocks8 : kUnpackClocks;
  return wide ? kFetchClocks : problem.a_type == DataType::kE4m3 ? kLookUpClocks : kMaskClocks;
}

double weight_bytes(const Problem& problem, const packing::Shape& shape) {
  const double numbers = has_zero_points(problem.w_type) ? 2 : 1;  // of two bytes, a group
  return static_cast<double>(shape.weight_bytes()) + 2 * numbers * static_cast<double>(shape.scale_count());
}

Estimate estimate_gemm(const Problem& problem, const Schedule& schedule, const Machine& machine) {
  const kernels::Tile& tile = schedule.kernel->tile;
  const packing::Shape shape = shape_of(problem);
  const auto m = static_cast<double>(std::max<std::int64_t>(problem.m, 1));
  const auto n = static_cast<double>(problem.n);
  const auto k = static_cast<double>(problem.k);
  const double n_tiles = ceil_div(n, tile.n);
  const double m_tiles = ceil_div(m, tile.m);
  const double tiles = n_tiles * m_tiles;
  const double sms = machine.sms;
  const double steps = ceil_div(k, 128);
  // The busiest CTA's steps, and the CTAs that give it their sums.
  double busiest = ceil_div(tiles, sms) * steps;
  double givers = 0;
  if (schedule.kernel->family == kernels::Family::kTurns) {
    const int share = turns::share_of(static_cast<int>(n_tiles), machine.sms);
    busiest = share * steps / turns::kPairs;
    givers = share == 1 ? 3 : share == 2 ? 1 : 0;  // of a larger share what others give is there in time
  } else if (schedule.stream_k && std::fmod(tiles, sms) != 0) {
    const double shared = tiles < sms ? tiles : sms + std::fmod(tiles, sms);
    const double part = ceil_div(shared * steps, sms);
    busiest = part + (tiles - shared) / sms * steps;
    givers = std::max(1.0, std::ceil(steps / part) - 1);
  }

  const auto element = static_cast<double>(bytes_of(problem.a_type));
  const double activation_bytes = element * m * k;
  Estimate e;
  const double uneven = busiest * sms / (tiles * steps);
  e.memory_us = (weight_bytes(problem, shape) + activation_bytes + 2 * m * n) / machine.read_tb_s * 1e-6 *
                (1 + kUnevenPart * (uneven - 1));
  e.l2_us = (weight_bytes(problem, shape) * m_tiles + element * m_tiles * tile.m * k * n_tiles) /
            (givers > 0 ? kScatteredL2TbS : machine.l2_tb_s) * 1e-6;

  const double atoms = tile.n / 128.0;
  // 8-bit activations: an MMA of as many clocks takes k32.
  const double mma = element * 8 * atoms * mma_clocks(tile.m);
  const double unpack = unpack_clocks(problem) * atoms + kStepClocks;
  const bool scales_steps = element == 1 && (problem.a_type == DataType::kE4m3 || shape.packed_groups > 1);
  const double scaling = scales_steps ? kScaleClocks * atoms * tile.m : 0;
  const double clocks = std::max(mma, unpack) + kHiddenPart * std::min(mma, unpack) + scaling;
  const double us_per_clock = 1e-3 / machine.clock_ghz;
  const double store = kStoreClocks * tile.n * tile.m * ceil_div(tiles, sms);
  e.compute_us = (busiest * clocks + store) * us_per_clock;
  e.overhead_us = kTailMicroseconds;
  if (givers > 0) e.overhead_us += kExchangeMicroseconds + givers * tile.n * tile.m * 4 / kGivenBytesPerMicrosecond;
  return e;
}

// Whole rows a CTA: the busiest SM decides, in what it consumes and in what it fetches.
struct WholeRows {
  double passes;  // row tiles of the busiest CTA
  double ctas;
  double share;  // of the weights that the busiest SM takes, in those of an even share
  WholeRows(const Problem& problem, const Schedule& schedule, const Machine& machine) {
    const double row_tiles = ceil_div(static_cast<double>(problem.n), schedule.kernel->tile.n);
    passes = ceil_div(row_tiles, machine.sms);
    ctas = ceil_div(row_tiles, passes);
    // Fewer CTAs than 96 do not saturate memory (docs/design-notes.md).
    share = passes * ctas / row_tiles * std::max(1.0, 96 / ctas);
  }
};

Estimate estimate_batch(const Problem& problem, const Schedule& schedule, const Machine& machine) {
  const kernels::Tile& tile = schedule.kernel->tile;
  const packing::Shape shape = shape_of(problem);
  const WholeRows rows(problem, schedule, machine);
  const bool bytes = bits_of(problem.w_type) == 8;
  Estimate e;
  e.memory_us = weight_bytes(problem, shape) * rows.share / machine.read_tb_s * 1e-6;
  const double rate = (bytes ? kBatchRate8 : kBatchRate) /
                      (1 + kBatchOctet * tile.m / 8 + (bytes ? kBatchSlot8 : kBatchSlot) * 16 / tile.n);
  e.compute_us = rows.passes * tile.n * static_cast<double>(shape.k_padded) / rate * 1e-3 / machine.clock_ghz;
  e.overhead_us = kBatchMicroseconds;
  return e;
}

Estimate estimate_decode(const Problem& problem, const Schedule& schedule, const Machine& machine) {
  const kernels::Tile& tile = schedule.kernel->tile;
  const packing::Shape shape = shape_of(problem);
  const WholeRows rows(problem, schedule, machine);
  const double blocks = ceil_div(3.0 * tile.m, 8);
  Estimate e;
  e.memory_us = weight_bytes(problem, shape) * rows.share / machine.read_tb_s * 1e-6;
  const double strips = tile.n / 16.0;
  const double rate = kDecodeRate / (0.68 + 0.32 * blocks) * (1 - 0.5 / strips);
  e.compute_us = rows.passes * tile.n * static_cast<double>(shape.k_padded) / rate * 1e-3 / machine.clock_ghz;
  e.overhead_us = kDecodeMicroseconds + kPlanesMicroseconds * static_cast<double>(problem.m * problem.k) / 4096;
  return e;
}

}  // namespace

double Estimate::total_us() const { return std::max({memory_us, l2_us, compute_us}) + overhead_us; }

std::string Estimate::reason() const {
  const char* bound = memory_us >= l2_us && memory_us >= compute_us ? "memory"
                      : l2_us >= compute_us                         ? "L2"
                                                                    : "unpacking and MMA";
  return fmt::format("bound by {}: memory {:.1f}, L2 {:.1f}, SM {:.1f}, overhead {:.1f} us", bound, memory_us, l2_us,
                     compute_us, overhead_us);
}

Estimate estimate(const Problem& problem, const Schedule& schedule, const Machine& machine) {
  switch (schedule.kernel->family) {
    case kernels::Family::kGemm:
    case kernels::Family::kTurns:
      return estimate_gemm(problem, schedule, machine);
    case kernels::Family::kBatch:
      return estimate_batch(problem, schedule, machine);
    case kernels::Family::kDecode:
      return estimate_decode(problem, schedule, machine);
  }
  return {};
}

}  // namespace machete::planner
