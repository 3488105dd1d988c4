#include "planner/cost.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "kernels/prepack/shape.h"

namespace machete::planner {
namespace {

double ceil_div(double a, double b) { return std::ceil(a / b); }

// Clocks of one m64nNk16 with A in registers, measured (docs/design-notes.md): below n32 the instruction does not get
// cheaper.
double mma_clocks(int tokens) { return tokens <= 16 ? 13 : tokens / 2.0; }

// The constants below are fitted to the times of every schedule on three suites, M = 1...512, where the median estimate
// is 5% low and four in five lie within -29% and +24%; they serve to rank, and were weighed with larger M in mind.

// Issue slots of a warp to unpack a tile of 16 rows x 64 k, and to keep the ring going.
constexpr double kUnpackSlots = 80;
constexpr double kTileSlots = 33;
// What a warp waits for in a tile when too few others fill the gap.
constexpr double kTileLatency = 260;
// Clocks for 128 bytes of a tile's way out, in fp32 through shared memory and then to D.
constexpr double kStoreClocks = 3.8;
constexpr double kLaunchMicroseconds = 2.8;   // launch, first loads, last store
constexpr double kHalvingMicroseconds = 1.7;  // each doubling of the CTAs that share K

// The share of SMs that clusters of a size keep busy: few of 4 and 8 fit into a GPC, and they start together.
double busy_share(int splits) { return splits <= 2 ? 1 : splits == 4 ? 0.855 : 0.65; }

// The batch family: weights a clock that an SM would consume but for the MMAs of each eight tokens and for what every
// slot costs, what L2 delivers to whole rows of CTAs, and everything else. Fitted like the above, to M = 1...64: the
// mean error is 12%.
constexpr double kBatchRate = 86;
constexpr double kBatchOctet = 0.61;
constexpr double kBatchSlot = 2.1;  // shared by the strips
constexpr double kBatchL2TbS = 10.5;
constexpr double kBatchMicroseconds = 3.7;

// The decode family: weights a clock that an SM consumes with many strips and eight columns of digits, what the integer
// planes of 4096 activations cost, and everything else. Fitted like the above, to M = 1 and 2: the mean error is 8%.
constexpr double kDecodeRate = 60;
constexpr double kPlanesMicroseconds = 0.09;
constexpr double kDecodeMicroseconds = 4.4;

double weight_bytes(const packing::Shape& shape) {
  return static_cast<double>(shape.weight_bytes()) + 2.0 * static_cast<double>(shape.scale_count());
}

Estimate estimate_gemm(const Problem& problem, const Schedule& schedule, const Machine& machine) {
  const kernels::Tile& tile = schedule.kernel->tile;
  const packing::Shape shape = packing::shape_of(problem.n, problem.k, problem.group_size);
  const auto m = static_cast<double>(std::max<std::int64_t>(problem.m, 1));
  const auto n = static_cast<double>(problem.n);
  const auto k = static_cast<double>(problem.k);
  const double n_tiles = ceil_div(n, tile.n);
  const double m_tiles = ceil_div(m, tile.m);
  const double ctas = n_tiles * m_tiles * schedule.splits;

  const double activation_bytes = 2 * m * k;
  Estimate e;
  e.memory_us = (weight_bytes(shape) + activation_bytes + 2 * m * n) / machine.read_tb_s * 1e-6;
  e.l2_us = (weight_bytes(shape) * m_tiles + 2 * m_tiles * tile.m * k * n_tiles) / machine.l2_tb_s * 1e-6;

  const double sms = machine.sms * busy_share(schedule.splits);
  const double resident = std::min<double>(schedule.kernel->ctas_per_sm, ceil_div(ctas, sms));
  const double waves = ceil_div(ctas, resident * sms);
  const double atoms = tile.n / 128.0;
  const double tiles_k = ceil_div(ceil_div(k, tile.k), schedule.splits) * tile.k / 64;
  const double mma = 4 * 2 * atoms * mma_clocks(tile.m);
  const double issue = 2 * (kUnpackSlots * atoms + kTileSlots);
  // What hides behind the other still costs a tenth of itself.
  const double busy = std::max(mma, issue) + 0.1 * std::min(mma, issue);
  const double clocks = std::max(resident * busy, kUnpackSlots * atoms + kTileLatency);
  const double store = kStoreClocks * 2 * tile.n * tile.m * 4 / 128 * resident;
  const double us_per_clock = 1e-3 / machine.clock_ghz;
  e.compute_us = waves * (tiles_k * clocks + store) * us_per_clock;
  e.overhead_us = kLaunchMicroseconds + kHalvingMicroseconds * std::log2(schedule.splits);
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
  const packing::Shape shape = packing::shape_of(problem.n, problem.k, problem.group_size);
  const WholeRows rows(problem, schedule, machine);
  const double row_tiles = ceil_div(static_cast<double>(problem.n), tile.n);
  const double activation_bytes = 2 * row_tiles * static_cast<double>(problem.m * problem.k);
  Estimate e;
  e.memory_us = weight_bytes(shape) * rows.share / machine.read_tb_s * 1e-6;
  e.l2_us = (weight_bytes(shape) + activation_bytes) * rows.share / kBatchL2TbS * 1e-6;
  const double rate = kBatchRate / (1 + kBatchOctet * tile.m / 8 + kBatchSlot * 16 / tile.n);
  e.compute_us = rows.passes * tile.n * static_cast<double>(shape.k_padded) / rate * 1e-3 / machine.clock_ghz;
  e.overhead_us = kBatchMicroseconds;
  return e;
}

Estimate estimate_decode(const Problem& problem, const Schedule& schedule, const Machine& machine) {
  const kernels::Tile& tile = schedule.kernel->tile;
  const packing::Shape shape = packing::shape_of(problem.n, problem.k, problem.group_size);
  const WholeRows rows(problem, schedule, machine);
  const double blocks = ceil_div(3.0 * tile.m, 8);
  Estimate e;
  e.memory_us = weight_bytes(shape) * rows.share / machine.read_tb_s * 1e-6;
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
      return estimate_gemm(problem, schedule, machine);
    case kernels::Family::kBatch:
      return estimate_batch(problem, schedule, machine);
    case kernels::Family::kDecode:
      return estimate_decode(problem, schedule, machine);
  }
  return {};
}

}  // namespace machete::planner
