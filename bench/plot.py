#!/usr/bin/env python3
"""Draws results of `machete bench`: microseconds and speed-up over cuBLAS, over M.

Writes <suite>-chain, <suite>-linears and <suite>-roofline, as PNG and SVG, for every suite in the given result files;
where two files hold the same suite, the later one counts; a run with --overlap is drawn beside the one without.
Without files: the newest results of each suite under bench/results/, and of e2e.py under bench/results/e2e/, which
become end-to-end.
"""

import argparse
import json
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

BENCH = Path(__file__).resolve().parent
TITLES = {"llama8b": "Llama-3.1-8B", "llama70b": "Llama-3.1-70B", "deepseek": "DeepSeek-V3"}
OURS = {  # by activation type, and whether plans overlap (programmatic dependent launch)
    ("bf16", False): ("Machete bf16", "#0b6bcb", "o"),
    ("bf16", True): ("Machete bf16, overlap", "#74a9e0", "o"),
    ("f16", False): ("Machete f16", "#e8590c", "s"),
    ("f16", True): ("Machete f16, overlap", "#f2a67c", "s"),
}
CUBLAS_COLOUR = "#343a40"
FLOOR_COLOUR = "#adb5bd"
PEER_STYLES = [("#2f9e44", "^"), ("#9c36b5", "v"), ("#b08900", "D"), ("#c2255c", "P")]
PANELS_A_ROW = 4

STYLE = {
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#868e96",
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.grid": True,
    "grid.color": "#e9ecef",
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "lines.markersize": 4,
    "svg.hashsalt": "machete",  # the same numbers give the same file
    "svg.fonttype": "none",
    "savefig.facecolor": "white",
}


@dataclass
class Line:
    """Microseconds over M, ours or a peer's, with cuBLAS's on the same problem."""

    ms: list = field(default_factory=list)
    us: list = field(default_factory=list)
    cublas: list = field(default_factory=list)
    floor: list = field(default_factory=list)

    def ratio(self):
        points = [(m, c / u) for m, u, c in zip(self.ms, self.us, self.cublas, strict=True) if u and c]
        return [m for m, _ in points], [r for _, r in points]


def line_of(records):
    """The first record of each M counts: with all schedules timed, that is the planner's choice."""
    by_m = {}
    for record in records:
        if record["us"]:  # null: the result was wrong
            by_m.setdefault(record["m"], record)
    line = Line()
    for m in sorted(by_m):
        line.ms.append(m)
        line.us.append(by_m[m]["us"])
        line.cublas.append(by_m[m].get("cublas_us"))
        line.floor.append(by_m[m].get("read_floor_us"))
    return line


def select(records, **wanted):
    return [r for r in records if all(r.get(key) == value for key, value in wanted.items())]


def load(path):
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        sys.exit(f"plot: {path}: {error}")


def age(path, data):
    """Sorts by date, then by the run's number that day: <gpu>-<suite>-<yyyy-mm-dd>[-n].json."""
    number = re.search(r"\d{4}-\d{2}-\d{2}-(\d+)$", path.stem)
    return data["date"], int(number.group(1)) if number else 0, path.name


def newest_results():
    found = []
    for path in (BENCH / "results").glob("*.json"):
        data = load(path)
        plain = isinstance(data, dict) and data.get("epilogue", "none") == "none"
        if plain and "read_tb_s" in data and data.get("rows"):
            found.append((age(path, data), path, data))
    return [(path, data) for _, path, data in sorted(found, key=lambda entry: entry[0])]


def load_peers():
    return [load(path) for path in sorted((BENCH / "peers").glob("*.json"))]


def peers_of(peers, data, suite, group_size):
    """What may be drawn beside the results: other cards' times say nothing here."""
    same = [p for p in peers if p["gpu"] == data["machine"]["gpu"] and p["group_size"] == group_size]
    return [p for p in same if select(p["rows"], suite=suite)]


def m_axis(axes, ms):
    axes.set_xscale("log", base=2)
    shown = [m for i, m in enumerate(sorted(ms)) if len(ms) <= 8 or i % 2 == 0]
    axes.xaxis.set_major_locator(FixedLocator(shown))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda m, _: f"{m:.0f}"))


def draw_time(axes, ours, peers):
    for label, colour, marker, line in peers:
        axes.plot(line.ms, line.us, color=colour, marker=marker, linewidth=0.9, alpha=0.85, label=label)
    for i, (kind, line) in enumerate(ours.items()):
        label, colour, marker = OURS[kind]
        if i == 0:
            if any(line.cublas):
                cublas = [us or float("nan") for us in line.cublas]
                axes.plot(line.ms, cublas, color=CUBLAS_COLOUR, linewidth=1.1, label=f"cuBLAS {kind[0]}")
            axes.plot(line.ms, line.floor, color=FLOOR_COLOUR, linestyle="--", linewidth=1.2, label="memory floor")
        axes.plot(line.ms, line.us, color=colour, marker=marker, label=label, zorder=3)
    axes.set_yscale("log", base=10)
    axes.yaxis.set_major_locator(matplotlib.ticker.LogLocator(base=10, subs=(1, 2, 5)))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda us, _: f"{us:g}"))
    m_axis(axes, {m for line in ours.values() for m in line.ms})


def draw_ratio(axes, ours, peers):
    axes.axhline(1, color=CUBLAS_COLOUR, linewidth=1.1)
    for _, colour, marker, line in peers:
        axes.plot(*line.ratio(), color=colour, marker=marker, linewidth=0.9, alpha=0.85)
    for kind, line in ours.items():
        _, colour, marker = OURS[kind]
        axes.plot(*line.ratio(), color=colour, marker=marker, zorder=3)
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda ratio, _: f"{ratio:g}×"))
    m_axis(axes, {m for line in ours.values() for m in line.ms})


def lines(records, peers, key, **wanted):
    """Ours by kind, and the peers' with their style; of `records`, and of the peers' list named `key`."""
    ours = {(a, overlap): line_of(select(records, a_type=a, overlap=overlap, **wanted)) for a, overlap in OURS}
    ours = {kind: line for kind, line in ours.items() if line.ms}
    all_ms = [m for line in ours.values() for m in line.ms]
    theirs = []
    for peer, (colour, marker) in zip(peers, PEER_STYLES, strict=False):
        peer_wanted = {name: value for name, value in wanted.items() if name in ("suite", "name")}
        records_shown = [r for r in select(peer[key], **peer_wanted) if all_ms and min(all_ms) <= r["m"] <= max(all_ms)]
        if records_shown:
            theirs.append((f"{peer['peer']} {peer['a_type']}", colour, marker, line_of(records_shown)))
    return ours, theirs


def legend_order(label):
    """Ours, then what bounds them, then the peers."""
    ours = [label for label, _, _ in OURS.values()]
    if label in ours:
        return ours.index(label)
    return 2 if label.startswith("cuBLAS") else 3 if label == "memory floor" else 4


def save(figure, axes, data, suite, subject, group_size, output):
    title = f"{TITLES.get(suite, suite)}: {subject}"
    about = (
        f"{data['machine']['gpu']}, 4-bit weights in groups of {group_size}, CUDA {data['machine']['cuda']}, "
        f"driver {data['machine']['driver']}, {data['date']}, commit {data['commit'][:10] or 'unknown'}"
    )
    width, height = figure.get_size_inches()
    figure.text(0.01, 1 - 0.10 / height, title, ha="left", va="top", fontsize=12, fontweight="bold")
    figure.text(0.01, 1 - 0.36 / height, about, ha="left", va="top", fontsize=8, color="#868e96")
    labelled = {}
    for panel in axes:
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True):
            labelled.setdefault(label, handle)
    columns = max(1, min(len(labelled), int((width - 0.2) / 1.85)))
    legend_rows = -(-len(labelled) // columns)
    names = sorted(labelled, key=legend_order)
    figure.legend(
        [labelled[name] for name in names],
        names,
        loc="lower left",
        bbox_to_anchor=(0.005, 0),
        ncols=columns,
        fontsize=8.5,
        handlelength=1.6,
        columnspacing=1.3,
    )
    figure.tight_layout(rect=(0, (0.12 + 0.2 * legend_rows) / height, 1, 1 - 0.55 / height))
    write(figure, output)


def write(figure, output):
    output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(output.with_suffix(".svg"), metadata={"Date": None})
    figure.savefig(output.with_suffix(".png"), dpi=160, metadata={"Software": None})
    plt.close(figure)
    print(f"wrote {output.with_suffix('.svg')} and {output.with_suffix('.png').name}")


def plot_chain(data, peers, suite, group_size, folder):
    ours, theirs = lines(data["chains"], peers, "chains", suite=suite)
    if not ours:
        return
    figure, (time_axes, ratio_axes) = plt.subplots(1, 2, figsize=(9.6, 4.3))
    draw_time(time_axes, ours, theirs)
    time_axes.set_title("µs for all linears")
    draw_ratio(ratio_axes, ours, theirs)
    ratio_axes.set_title("speed-up over cuBLAS with 16-bit weights")
    for axes in (time_axes, ratio_axes):
        axes.set_xlabel("M, tokens")
    subject = "the linears of a decoder layer in turn"
    save(figure, [time_axes], data, suite, subject, group_size, folder / f"{suite}-chain")


def plot_linears(data, peers, suite, group_size, folder):
    rows = select(data["rows"], suite=suite, group_size=group_size)
    shapes = list(dict.fromkeys((r["name"], r["n"], r["k"]) for r in rows if r["us"]))
    if not shapes:
        return
    columns = min(PANELS_A_ROW, len(shapes))
    bands = (len(shapes) + columns - 1) // columns  # of two rows of panels each: µs above, speed-up below
    size = (max(2.6 * columns, 4.8), 4.4 * bands + 0.9)
    figure, grid = plt.subplots(2 * bands, columns, figsize=size, squeeze=False)
    for axes in grid.flat:
        axes.set_visible(False)
    for i, (name, n, k) in enumerate(shapes):
        band, column = divmod(i, columns)
        ours, theirs = lines(rows, peers, "rows", suite=suite, name=name)
        time_axes, ratio_axes = grid[2 * band][column], grid[2 * band + 1][column]
        for axes in (time_axes, ratio_axes):
            axes.set_visible(True)
            axes.tick_params(labelsize=7)
        draw_time(time_axes, ours, theirs)
        time_axes.set_title(f"{name}  {n}×{k}", fontsize=9)
        draw_ratio(ratio_axes, ours, theirs)
        ratio_axes.set_xlabel("M, tokens", fontsize=8)
        if column == 0:
            time_axes.set_ylabel("µs", fontsize=8)
            ratio_axes.set_ylabel("speed-up over cuBLAS", fontsize=8)
    subject = "each linear (N×K) on its own"
    save(figure, list(grid.flat), data, suite, subject, group_size, folder / f"{suite}-linears")


def plot_roofline(data, suite, group_size, folder):
    """TFLOP/s over the FLOP that each byte which must move has to pay for: every linear at every M in bf16."""
    rows = [r for r in select(data["rows"], suite=suite, group_size=group_size) if r["us"]]
    if len(rows) < 2:
        return
    figure, axes = plt.subplots(figsize=(7.2, 4.6))
    dense = [r for r in rows if r.get("cublas_us") and r["a_type"] == "bf16" and not r["overlap"]]
    if dense:
        moved = [2 * (r["n"] * r["k"] + r["m"] * (r["k"] + r["n"])) for r in dense]
        flops = [2 * r["m"] * r["n"] * r["k"] for r in dense]
        x = [f / b for f, b in zip(flops, moved, strict=True)]
        y = [f / r["cublas_us"] / 1e6 for f, r in zip(flops, dense, strict=True)]
        axes.plot(x, y, "x", color=CUBLAS_COLOUR, label="cuBLAS, 16-bit weights")
    for (a_type, overlap), (label, colour, marker) in OURS.items():
        ours = select(rows, a_type=a_type, overlap=overlap)
        if ours and a_type == "bf16":
            x = [1e3 * r["tflops"] / r["gb_s"] for r in ours]
            axes.plot(x, [r["tflops"] for r in ours], marker, color=colour, label=label, alpha=0.8)
    left, right = axes.get_xlim()
    peak = max([r["tflops"] for r in rows] + [2e-6 * r["m"] * r["n"] * r["k"] / r["cublas_us"] for r in dense])
    ridge = peak / data["read_tb_s"]
    ends = [min(1.0, ridge), ridge, max(1.2 * right, 2 * ridge)]
    axes.plot(ends, [ends[0] * data["read_tb_s"], peak, peak], color=FLOOR_COLOUR, zorder=0)
    note = {"va": "bottom", "fontsize": 8, "color": "#868e96"}
    axes.annotate(f"{data['read_tb_s']:.2f} TB/s", (2 * ends[0], 3 * ends[0] * data["read_tb_s"]), ha="right", **note)
    axes.annotate(f"the most here, {peak:.0f} TFLOP/s", (ends[2], 1.04 * peak), ha="right", **note)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("FLOP a byte that must move")
    axes.set_ylabel("TFLOP/s")
    output = folder / f"{suite}-roofline"
    save(figure, [axes], data, suite, "every linear at every M, under its roofline", group_size, output)


def plot_end_to_end(data, folder):
    """Tokens a second of a whole model, decoding, as bars: torch's bf16 linears and ours."""
    rows = select(data["rows"], what="decode")
    figure, panels = plt.subplots(1, len(rows), figsize=(2.3 * len(rows) + 0.6, 3.2))
    for axes, row in zip(panels, rows, strict=True):
        speed = row["tokens_per_second"]
        bars = axes.bar(["bf16", "u4b8"], [speed["bf16"], speed["u4b8"]], color=[CUBLAS_COLOUR, OURS["bf16", False][1]])
        axes.bar_label(bars, [f"{speed['bf16']:.0f}", f"{speed['u4b8']:.0f}\n{row['ratio']:.2f}×"], fontsize=8)
        axes.set_ylim(top=1.2 * max(speed.values()))
        axes.set_title(f"batch {row['batch']}")
        axes.grid(axis="x", visible=False)
        axes.set_axisbelow(True)
    panels[0].set_ylabel("tokens/s")
    model = data["model"]
    title = f"Llama of {model['num_hidden_layers']} layers, hidden size {model['hidden_size']}: decoding"
    about = f"{data['machine']}, {data['prompt']} tokens of prompt, CUDA graphs, {data['date']}"
    height = figure.get_size_inches()[1]
    figure.text(0.01, 1 - 0.10 / height, title, ha="left", va="top", fontsize=12, fontweight="bold")
    figure.text(0.01, 1 - 0.36 / height, about, ha="left", va="top", fontsize=8, color="#868e96")
    figure.tight_layout(rect=(0, 0, 1, 1 - 0.55 / height))
    write(figure, folder / "end-to-end")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", nargs="*", type=Path, help="JSON files written by `machete bench --json`")
    parser.add_argument("--output", type=Path, default=BENCH.parent / "docs" / "plots", help="folder for the plots")
    arguments = parser.parse_args()

    results = [(path, load(path)) for path in arguments.results] or newest_results()
    by_suite = {}
    for _, data in results:
        overlap = data.get("overlap", False)
        for record in data["rows"] + data["chains"]:
            record["overlap"] = overlap
        for suite in dict.fromkeys(row["suite"] for row in data["rows"]):
            by_suite.setdefault(suite, {})[overlap] = data
    if not by_suite:
        sys.exit("plot: there are no results under bench/results/; make some with `machete bench --json FILE`")

    peers = load_peers()
    with plt.rc_context(STYLE):
        for suite, runs in by_suite.items():
            data = dict(runs.get(False) or runs[True])  # the overlapping run is drawn into the plain one's plots
            if len(runs) == 2:
                data["rows"] = data["rows"] + runs[True]["rows"]
                data["chains"] = data["chains"] + runs[True]["chains"]
            group_size = select(data["rows"], suite=suite)[0]["group_size"]
            beside = peers_of(peers, data, suite, group_size)
            plot_chain(data, beside, suite, group_size, arguments.output)
            plot_linears(data, beside, suite, group_size, arguments.output)
            plot_roofline(data, suite, group_size, arguments.output)
        models = [] if arguments.results else [load(path) for path in (BENCH / "results" / "e2e").glob("*.json")]
        if models:
            plot_end_to_end(max(models, key=lambda data: data["date"]), arguments.output)


if __name__ == "__main__":
    main()
