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

// Issue slots of a warp to unpack a tile of 16 rows x 64 k (four words, 15 instructions each, scales), and to keep the
// ring going.
constexpr double kUnpackSlots = 75;
constexpr double kTileSlots = 40;
// What a warp waits for in a tile when too few others fill the gap.
constexpr double kTileLatency = 150;

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
  const kernels::Tile& tile = schedule.kernel->tile;
  const packing::Shape shape = packing::shape_of(problem.n, problem.k, problem.group_size);
  const auto m = static_cast<double>(problem.m);
  const auto n = static_cast<double>(problem.n);
  const auto k = static_cast<double>(problem.k);
  const double n_tiles = ceil_div(n, tile.n);
  const double m_tiles = ceil_div(m, tile.m);
  const double ctas = n_tiles * m_tiles * schedule.splits;

  const double weight_bytes =
      static_cast<double>(shape.weight_bytes()) + 2.0 * static_cast<double>(shape.scale_count());
  const double activation_bytes = 2 * m * k;
  Estimate e;
  e.memory_us = (weight_bytes + activation_bytes + 2 * m * n) / machine.read_tb_s * 1e-6;
  e.l2_us = (weight_bytes * m_tiles + 2 * m_tiles * tile.m * k * n_tiles) / machine.l2_tb_s * 1e-6;

  // Clusters of four and more leave some SMs out.
  const double sms = schedule.splits >= 4 ? machine.sms * 120.0 / 132.0 : machine.sms;
  const double resident = std::min<double>(schedule.kernel->ctas_per_sm, ceil_div(ctas, sms));
  const double waves = ceil_div(ctas, resident * sms);
  const double atoms = tile.n / 128.0;
  const double tiles_k = ceil_div(ceil_div(k, tile.k), schedule.splits) * tile.k / 64;
  const double mma = 4 * 2 * atoms * mma_clocks(tile.m);
  const double issue = 2 * (kUnpackSlots * atoms + kTileSlots);
  const double clocks = std::max(resident * std::max(mma, issue), kUnpackSlots * atoms + kTileLatency);
  const double store = 2.0 * tile.n * tile.m * 4 / 128 * resident;  // through shared memory, 128 bytes a clock
  const double us_per_clock = 1e-3 / machine.clock_ghz;
  e.compute_us = waves * (tiles_k * clocks + store) * us_per_clock;
  e.overhead_us = 4.0 + (schedule.splits > 1 ? 1.0 : 0.0);
  return e;
}

}  // namespace machete::planner
