#pragma once

namespace machete::planner {

/// What the cost model knows of a GPU and of the kernels on it. But for `sms` and `read_tb_s`, the numbers are fitted
/// to what `machete tune` measured on an H100 (tuning/README.md). Clocks are of 1.755 GHz, whatever the card runs at.
struct Machine {
  int sms = 132;
  double read_tb_s = 3.1;  // read-only stream from memory, measured

  struct Gemm {
    // A CTA's step of 128 k: MMAs in part of their measured clocks, unpacking 128 rows of 4 or 8 bits, stages of the
    // ring.
    double mma_part = 0.865;
    double unpack_clocks = 450;
    double unpack_e2m1_clocks = 811;
    double unpack8_clocks = 972;
    double stage_clocks = 146;
    // The same with 8-bit activations: codes that are looked up (4 bits to e4m3), that are masked, that are as they
    // are; and what a token of the tile costs where sums are scaled step by step.
    double look_up_clocks = 580;
    double mask_clocks = 211;
    double fetch_clocks = 428;
    double scale_clocks = 0.715;
    // A tile's end: an element of D, and the rest.
    double store_clocks = 0.0388;
    double drain_clocks = 1847;

    // What L2 delivers, and what it does where CTAs share tiles and are at different k: less, the less their parts
    // coincide; and tiles of other tokens then find so much of the weights gone.
    double l2_tb_s = 16.5;
    double scattered_l2_tb_s = 11.3;
    double scattered_part = 0.246;
    double scattered_reads = 1.44;
    double empty_tb_s = 3.21;  // rows beyond M, from when TMA filled them with zeros

    // Under the power limit: clocks for one of an MMA on tokens that there are, and for one of unpacking.
    double mma_power = 0.86;
    double unpack_power = 0.31;

    // Stream-K: waiting for a CTA's sums, more with each 128 rows beyond the first; adding up; a CTA that gives. Where
    // whole tiles follow, the exchange is early and short.
    double exchange_us = 1.32;
    double exchange_rows = 0.33;
    double given_bytes_us = 69.6e3;
    double given_part = 1.17;
    double giver_us = 0.086;
    double early_us = 0.566;
    double early_part = 2.43;

    double launch_us = 1.67;
    // How much the largest of several ceilings hides the others: 1, nothing; infinity, all.
    double path_norm = 3.85;
    double power_norm = 2.71;
  } gemm;

  struct Batch {
    // Weights a clock that an SM would consume but for the MMAs of each eight tokens and for what slots of 128 k cost,
    // or of 64 k, shared by their strips.
    double rate = 62.9;
    double rate8 = 48.5;  // of 8 bits
    double octet = 0.435;
    double slot = 0.861;
    double half_slot = 1.61;
    double slot8 = 3.66;
    double many_part = 0.718;  // of the time, where 16 warps hide more
    // What a CTA takes from memory and L2, and what of it a byte of activations counts.
    double bytes_us = 80.4e3;
    double activation_part = 0.628;
    double many_activation_part = 2.0;  // with 16 warps, whose slots are fewer

    double launch_us = 1.48;
    double many_us = 0.331;  // more with 16 warps
    double pass_us = 0.296;
    double sum_us = 0.0757;   // for 128 sums of eight warps
    double round_us = 0.106;  // of eight tokens, where sums take turns
    double norm = 4.51;
  } batch;
};

}  // namespace machete::planner
