#!/usr/bin/env python3
"""Predicts what decode-sized linears take from bytes, L2, unpacking and fixed latencies, beside what sweeps measured.

usage: tuning/roofline.py tuning/sweeps/h100-*.json      prints the table of docs/roofline.md
"""

import argparse
import math
import pathlib
import re

from best import best_rows

SMS = 132
CLOCK_GHZ = 1.7  # of the SMs while these kernels run
READ_TB_S = 3.12  # the read-only stream of the sweeps
L2_TB_S = 11  # weights and activations into the SMs together: what `down` at M = 64 reaches
# Weights a clock that an SM consumes. Batch: 4 schedulers over the instructions of a slot (multiplier.cuh as compiled),
# and mma.sync's own 42 and 21 at 32 and 64 tokens; decode and gemm: measured in their main loops.
WEIGHTS_A_CLOCK = {
    ("batch", 8): 59,
    ("batch", 16): 48,
    ("batch", 32): 35,
    ("batch", 64): 20,
    ("decode", 1): 75,
    ("decode", 2): 75,
    ("gemm", 32): 27,
    ("gemm", 64): 20,
}
FIXED_US = {False: 3.3, True: 1.8}  # plain, dependent launch; docs/roofline.md takes them apart
EXCHANGE_US = 3.4  # stream-K: sums given away, waited for, added
MS = (1, 8, 16, 32, 64)


def predict(row: dict, overlap: bool) -> tuple[float, float, float, float]:
    """Microseconds of memory, L2 and unpacking, and the whole."""
    family, tile_n, tile_m = re.match(r"([a-z]+)_(\d+)x(\d+)x", row["schedule"]).groups()
    n, k, m = row["n"], row["k"], row["m"]
    weight_bytes = n * k / 2 * (1 + 4 / row["group_size"])
    row_tiles = math.ceil(n / int(tile_n))
    activation_bytes = row_tiles * m * k * 2  # read once a row tile
    rate = WEIGHTS_A_CLOCK[family, int(tile_m)]
    stream_k = row["schedule"].endswith("_streamk")
    passes = math.ceil(row_tiles / SMS)
    busiest = n * k / SMS if stream_k else passes * int(tile_n) * k
    # A GEMM kernel's tiles, unlike a batch kernel's passes, leave memory to whoever asks.
    share = 1 if family == "gemm" else passes * math.ceil(row_tiles / passes) / row_tiles
    memory = weight_bytes * share / READ_TB_S * 1e-6
    l2 = (weight_bytes + activation_bytes) / L2_TB_S * 1e-6
    unpack = busiest / rate / CLOCK_GHZ * 1e-3
    return memory, l2, unpack, max(memory, l2, unpack) + FIXED_US[overlap] + (EXCHANGE_US if stream_k else 0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sweeps", type=pathlib.Path, nargs="+")
    best = best_rows(parser.parse_args().sweeps)

    print("| M | linear | memory | L2 | unpack | plain: predicted | measured | | dependent: predicted | measured | |")
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    for m in MS:
        for name in ("qkv", "o", "gate_up", "down"):
            cells = []
            for overlap in (False, True):
                row = best["llama8b", overlap, m][name]
                *parts, whole = predict(row, overlap)
                if not overlap:
                    cells += [f"{part:.1f}" for part in parts]
                cells += [f"{whole:.1f}", f"{row['us']:.1f}", f"{row['us'] / whole - 1:+.0%}"]
            print(f"| {m} | {name} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
