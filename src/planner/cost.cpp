#include "planner/cost.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <initializer_list>

#include "kernels/prepack/shape.h"
#include "kernels/turns/share.h"

namespace machete::planner {
namespace {

double ceil_div(double a, double b) { return std::ceil(a / b); }

// Clocks of one m64nNk16 with A in registers, measured (docs/design-notes.md): below n32 the instruction does not get
// cheaper.
double mma_clocks(int tokens) { return tokens <= 16 ? 13 : tokens / 2.0; }

// Of the card's clock when power does not limit it, as far as kernels show it.
constexpr double kUsPerClock = 1e-3 / 1.755;

// What takes as long as the largest of several ceilings would, and a little longer for the others.
double norm(std::initializer_list<double> ceilings, double p) {
  const double largest = std::max(ceilings);
  if (largest <= 0) return 0;
  double sum = 0;
  for (const double ceiling : ceilings) sum += std::pow(ceiling / largest, p);
  return largest * std::pow(sum, 1 / p);
}

// The decode family: weights a clock that an SM consumes with many strips and eight columns of digits, what the integer
// planes of 4096 activations cost, and everything else. Fitted to sweeps of M = 1 and 2: the mean error is 8%.
constexpr double kDecodeRate = 53.3;
constexpr double kPlanesMicroseconds = 0.09;
constexpr double kDecodeMicroseconds = 4.4;

// Of 128 rows and 128 k.
double unpack_clocks(const Problem& problem, const Machine::Gemm& gemm) {
  const bool wide = bits_of(problem.w_type) == 8;
  if (bits_of(problem.a_type) == 16) {
    if (wide) return gemm.unpack8_clocks;
    return problem.w_type == WeightType::kE2m1 ? gemm.unpack_e2m1_clocks : gemm.unpack_clocks;
  }
  return wide ? gemm.fetch_clocks : problem.a_type == DataType::kE4m3 ? gemm.look_up_clocks : gemm.mask_clocks;
}

double weight_bytes(const Problem& problem, const packing::Shape& shape) {
  const double numbers = has_zero_points(problem.w_type) ? 2 : 1;  // of two bytes, a group
  return static_cast<double>(shape.weight_bytes()) + 2 * numbers * static_cast<double>(shape.scale_count());
}

// Who computes what of a GEMM's tiles, as kernels/gemm/scheduler.h shares them out.
struct TileShares {
  double busiest;        // steps of 128 k of the CTA with the most
  double finished;       // tiles that it stores
  double parts = 1;      // CTAs that a shared tile has, on average
  bool shared = false;   // some tiles have several
  bool early = false;    // those come first, whole ones follow
  double scattered = 0;  // 0: CTAs that share a tile begin where others do; 1: all at different k

  TileShares(double tiles, double steps, double sms, bool stream_k)
      : busiest(ceil_div(tiles, sms) * steps), finished(ceil_div(tiles, sms)) {
    const double rest = std::fmod(tiles, sms);
    if (!stream_k || rest == 0) return;
    shared = true;
    early = tiles > sms;
    const double common = early ? sms + rest : tiles;
    const double whole = (tiles - common) / sms;
    busiest = ceil_div(common * steps, sms) + whole * steps;
    finished = ceil_div(common, sms) + whole;
    const double ctas_a_tile = sms / common;
    if (!early) parts = ctas_a_tile;
    scattered = 2 * std::abs(ctas_a_tile - std::round(ctas_a_tile));
  }

  // Those of kernels/turns/order.h.
  static TileShares of_turns(double tiles, double steps, int sms) {
    TileShares shares(tiles, steps, sms, false);
    const int pairs = turns::share_of(static_cast<int>(tiles), sms);
    shares.busiest = pairs * steps / turns::kPairs;
    shares.finished = ceil_div(pairs, turns::kPairs);
    shares.shared = turns::shares_tiles(pairs);
    shares.early = pairs > turns::kPairs / 2;
    if (shares.shared && !shares.early) shares.parts = static_cast<double>(turns::kPairs) / pairs;
    return shares;
  }
};

double exchange_us(const TileShares& shares, const kernels::Tile& tile, const Machine::Gemm& gemm) {
  if (!shares.shared) return 0;
  const double given_us = 4.0 * tile.n * tile.m / gemm.given_bytes_us;
  if (shares.early) return gemm.early_us + gemm.early_part * given_us;
  const double givers = shares.parts - 1;
  return gemm.exchange_us * (1 + gemm.exchange_rows * (tile.n / 128.0 - 1)) +
         (gemm.given_part + std::min(givers, 4.0)) * given_us + gemm.giver_us * givers;
}

Estimate estimate_gemm(const Problem& problem, const Schedule& schedule, const Machine& machine) {
  const Machine::Gemm& gemm = machine.gemm;
  const kernels::Tile& tile = schedule.kernel->tile;
  const packing::Shape shape = shape_of(problem);
  const auto m = static_cast<double>(std::max<std::int64_t>(problem.m, 1));
  const auto n = static_cast<double>(problem.n);
  const auto k = static_cast<double>(problem.k);
  const double n_tiles = ceil_div(n, tile.n);
  const double m_tiles = ceil_div(m, tile.m);
  const double tiles = n_tiles * m_tiles;
  const double steps = ceil_div(k, 128);
  const TileShares shares = schedule.kernel->family == kernels::Family::kTurns
                                ? TileShares::of_turns(n_tiles, steps, machine.sms)
                                : TileShares(tiles, steps, machine.sms, schedule.stream_k);

  const auto element = static_cast<double>(bytes_of(problem.a_type));
  const double weights = weight_bytes(problem, shape);
  Estimate e;
  const double read_again = m_tiles > 1 ? gemm.scattered_reads * shares.scattered : 0;
  e.memory_us = (weights * (1 + read_again) + element * m * k + 2 * m * n) / machine.read_tb_s * 1e-6;
  const double activations = n_tiles * element * k;  // bytes, of a token
  e.l2_us = ((weights * m_tiles + activations * m) / (shares.shared ? gemm.scattered_l2_tb_s : gemm.l2_tb_s) +
             activations * (m_tiles * tile.m - m) / gemm.empty_tb_s) *
            (1 + gemm.scattered_part * shares.scattered) * 1e-6;

  const double atoms = tile.n / 128.0;
  // 8-bit activations: an MMA of as many clocks takes k32.
  const double mma = element * 8 * atoms * mma_clocks(tile.m) * gemm.mma_part;
  const double unpack = unpack_clocks(problem, gemm) * atoms;
  const bool promotes = problem.a_type == DataType::kE4m3 && !problem.fast_accumulation;
  const bool scales_steps = element == 1 && (promotes || shape.packed_groups > 1);
  const double scaling = scales_steps ? gemm.scale_clocks * atoms * tile.m : 0;
  // Three warpgroups hide one's unpacking behind the others' MMAs, if those are long.
  const bool hidden = tile.n % 128 != 0 && tile.m >= 128;
  const double step = norm({mma, hidden ? 0 : unpack}, 2) + gemm.stage_clocks * 128 / tile.k + scaling;
  const double store = gemm.store_clocks * tile.n * tile.m * shares.finished;
  e.compute_us = (shares.busiest * step + store + gemm.drain_clocks * shares.finished) * kUsPerClock;
  // Zeros cost no power.
  const double full_mma = element * 4 * atoms * m / m_tiles;
  const double energy = tiles * steps * (gemm.mma_power * full_mma + gemm.unpack_power * unpack) / machine.sms;
  e.power_us = (energy + store) * kUsPerClock;

  const double path = norm({e.memory_us, e.l2_us, e.compute_us}, gemm.path_norm) + exchange_us(shares, tile, gemm);
  e.expected_us = norm({path, e.power_us}, gemm.power_norm) + gemm.launch_us;
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
  const Machine::Batch& batch = machine.batch;
  const kernels::Tile& tile = schedule.kernel->tile;
  const packing::Shape shape = shape_of(problem);
  const double passes = WholeRows(problem, schedule, machine).passes;
  const auto k = static_cast<double>(shape.k_padded);
  const bool bytes = bits_of(problem.w_type) == 8;
  const bool many = schedule.kernel->order == 16;  // warps
  const double weights = passes * tile.n * k;      // of the busiest CTA
  Estimate e;
  e.memory_us = weight_bytes(problem, shape) / machine.read_tb_s * 1e-6;
  const double slot = bytes ? batch.slot8 : tile.k < 128 ? batch.half_slot : batch.slot;
  const double clocks = (1 + batch.octet * tile.m / 8 + slot * 16 / tile.n) / (bytes ? batch.rate8 : batch.rate);
  e.compute_us = weights * clocks * (many ? batch.many_part : 1) * kUsPerClock;
  const double activations = passes * static_cast<double>(problem.m) * 2 * k;
  e.l2_us = (weights * bits_of(problem.w_type) / 8 +
             (many ? batch.many_activation_part : batch.activation_part) * activations) /
            batch.bytes_us;
  // Sums of all warps lie in shared memory at once, or those of eight tokens do (kernels/batch/config.h).
  const int warps = many ? 16 : 8;
  const int rounds = warps * tile.m * (tile.n + 4) * 4 <= 40 * 1024 ? 0 : tile.m / 8;
  const double sum_us = batch.sum_us * tile.n * tile.m / 128 * warps / 8 + batch.round_us * rounds;
  e.expected_us = norm({e.memory_us, e.l2_us, e.compute_us}, batch.norm) + batch.launch_us +
                  passes * (batch.pass_us + sum_us) + (many ? batch.many_us : 0);
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
  e.compute_us = rows.passes * tile.n * static_cast<double>(shape.k_padded) / rate * kUsPerClock;
  e.expected_us = std::max(e.memory_us, e.compute_us) + kDecodeMicroseconds +
                  kPlanesMicroseconds * static_cast<double>(problem.m * problem.k) / 4096;
  return e;
}

}  // namespace

std::string Estimate::reason() const {
  const double largest = std::max({memory_us, l2_us, compute_us, power_us});
  const char* bound = memory_us == largest    ? "memory"
                      : l2_us == largest      ? "L2"
                      : compute_us == largest ? "unpacking and MMA"
                                              : "power";
  return fmt::format("bound by {}: memory {:.1f}, L2 {:.1f}, SM {:.1f}, power {:.1f}, the rest {:.1f} us", bound,
                     memory_us, l2_us, compute_us, power_us, expected_us - largest);
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
