"""Draws recorded measurements: microseconds and speed-up over cuBLAS, over M, rooflines, whole models.

Of every suite among the results: <suite>-chain, <suite>-linears and <suite>-roofline, or <suite>-steps alone; of a
whole model, end-to-end; as PNG and SVG. A run with --overlap is drawn beside the one without, peers beside results of
the same card.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MultipleLocator, NullLocator

from machete.results import Line, Record, Suite, read, select

Kind = tuple[str, bool]  # activation type, and whether plans overlap (programmatic dependent launch)
Lines = dict[Kind, Line]
Peers = list[tuple[str, str, str, Line]]  # label, colour, marker

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


def draw(paths: Sequence[Path], folder: Path, *, steps: bool = False) -> list[Path]:
    """Draws the newest results in these files and folders into `folder`: the SVG files, each with a PNG beside it.

    `steps`: of each suite its chain alone, over M in equal steps instead of powers of two.
    OSError, ValueError: a file that cannot be read, or is no such result; nothing to draw.
    """
    results = read(paths)
    drawn: list[Path] = []
    with plt.rc_context(STYLE):
        for suite in results.suites:
            if steps:
                drawn += _draw_chain(suite, folder, steps=True)
                continue
            drawn += _draw_chain(suite, folder) + _draw_linears(suite, folder) + _draw_roofline(suite, folder)
        if results.model and not steps:
            drawn += _draw_model(results.model, folder)
    if not drawn:
        raise ValueError(f"no results to draw in {', '.join(map(str, paths))}; `machete bench --json FILE` makes some")
    return drawn


def _m_axis(axes: Axes, ms: set[int], steps: bool) -> None:
    if steps:
        axes.xaxis.set_major_locator(MultipleLocator(64))
        return
    axes.set_xscale("log", base=2)
    shown = [m for i, m in enumerate(sorted(ms)) if len(ms) <= 8 or i % 2 == 0]
    axes.xaxis.set_major_locator(FixedLocator(shown))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda m, _: f"{m:.0f}"))


def _time(axes: Axes, ours: Lines, peers: Peers, steps: bool = False) -> None:
    for label, colour, marker, line in peers:
        axes.plot(line.ms, line.us, color=colour, marker=marker, linewidth=0.9, alpha=0.85, label=label)
    for i, (kind, line) in enumerate(ours.items()):
        label, colour, marker = OURS[kind]
        if i == 0:
            if any(line.cublas):
                cublas = [us or float("nan") for us in line.cublas]
                axes.plot(line.ms, cublas, color=CUBLAS_COLOUR, linewidth=1.1, label=f"cuBLAS {kind[0]}")
            floor = [us or float("nan") for us in line.floor]
            axes.plot(line.ms, floor, color=FLOOR_COLOUR, linestyle="--", linewidth=1.2, label="memory floor")
        axes.plot(line.ms, line.us, color=colour, marker=marker, label=label, zorder=3)
    if steps:
        axes.set_ylim(bottom=0)
    else:
        axes.set_yscale("log", base=10)
        axes.yaxis.set_major_locator(LogLocator(base=10, subs=(1, 2, 5)))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter(FuncFormatter(lambda us, _: f"{us:g}"))
    _m_axis(axes, {m for line in ours.values() for m in line.ms}, steps)


def _ratio(axes: Axes, ours: Lines, peers: Peers, steps: bool = False) -> None:
    axes.axhline(1, color=CUBLAS_COLOUR, linewidth=1.1)
    for _, colour, marker, line in peers:
        axes.plot(*line.ratio(), color=colour, marker=marker, linewidth=0.9, alpha=0.85)
    for kind, line in ours.items():
        _, colour, marker = OURS[kind]
        axes.plot(*line.ratio(), color=colour, marker=marker, zorder=3)
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda ratio, _: f"{ratio:g}×"))
    _m_axis(axes, {m for line in ours.values() for m in line.ms}, steps)


def _lines(records: Iterable[Record], suite: Suite, key: str, name: str | None = None) -> tuple[Lines, Peers]:
    """Ours by kind, and the peers' with their style; of `records`, and of the peers' list named `key`."""
    wanted = {"suite": suite.name} | ({} if name is None else {"name": name})
    records = select(records, **wanted)
    ours = {(a, overlap): Line.of(select(records, a_type=a, overlap=overlap)) for a, overlap in OURS}
    ours = {kind: line for kind, line in ours.items() if line.ms}
    ms = [m for line in ours.values() for m in line.ms]
    theirs: Peers = []
    for peer, (colour, marker) in zip(suite.peers, PEER_STYLES, strict=False):
        shown = [r for r in select(peer[key], **wanted) if ms and min(ms) <= r["m"] <= max(ms)]
        if shown:
            theirs.append((f"{peer['peer']} {peer['a_type']}", colour, marker, Line.of(shown)))
    return ours, theirs


def _legend_order(label: str) -> int:
    """Ours, then what bounds them, then the peers."""
    ours = [label for label, _, _ in OURS.values()]
    if label in ours:
        return ours.index(label)
    return 2 if label.startswith("cuBLAS") else 3 if label == "memory floor" else 4


def _save(figure: Figure, panels: Iterable[Axes], suite: Suite, subject: str, output: Path) -> list[Path]:
    run, weight_type = suite.run, suite.rows[0]["w_type"]
    weights = "4-bit" if weight_type == "u4b8" else weight_type
    about = (
        f"{run['machine']['gpu']}, {weights} weights in groups of {suite.group_size}, CUDA {run['machine']['cuda']}, "
        f"driver {run['machine']['driver']}, {run['date']}, commit {run['commit'][:10] or 'unknown'}"
    )
    width, height = figure.get_size_inches()
    labelled: dict[str, Any] = {}
    for panel in panels:
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True):
            labelled.setdefault(label, handle)
    columns = max(1, min(len(labelled), int((width - 0.2) / 1.85)))
    names = sorted(labelled, key=_legend_order)
    title = f"{TITLES.get(suite.name, suite.name)}: {subject}"
    _title(figure, title, about)
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
    figure.tight_layout(rect=(0, (0.12 + 0.2 * -(-len(labelled) // columns)) / height, 1, 1 - 0.55 / height))
    return _write(figure, output)


def _title(figure: Figure, title: str, about: str) -> None:
    height = figure.get_size_inches()[1]
    figure.text(0.01, 1 - 0.10 / height, title, ha="left", va="top", fontsize=12, fontweight="bold")
    figure.text(0.01, 1 - 0.36 / height, about, ha="left", va="top", fontsize=8, color="#868e96")


def _write(figure: Figure, output: Path) -> list[Path]:
    output.parent.mkdir(parents=True, exist_ok=True)
    svg = output.with_suffix(".svg")
    figure.savefig(svg, metadata={"Date": None})
    figure.savefig(output.with_suffix(".png"), dpi=160, metadata={"Software": None})
    plt.close(figure)
    return [svg]


def _draw_chain(suite: Suite, folder: Path, *, steps: bool = False) -> list[Path]:
    ours, theirs = _lines(suite.chains, suite, "chains")
    if not ours:
        return []
    figure, (time_axes, ratio_axes) = plt.subplots(1, 2, figsize=(9.6, 4.3))
    _time(time_axes, ours, theirs, steps)
    time_axes.set_title("µs for all linears")
    _ratio(ratio_axes, ours, theirs, steps)
    ratio_axes.set_title("speed-up over cuBLAS with 16-bit weights")
    for axes in (time_axes, ratio_axes):
        axes.set_xlabel("M, tokens")
    subject = "the linears of a decoder layer in turn" if suite.name in TITLES else "the linears in turn"
    return _save(figure, [time_axes], suite, subject, folder / f"{suite.name}-{'steps' if steps else 'chain'}")


def _draw_linears(suite: Suite, folder: Path) -> list[Path]:
    rows = [r for r in suite.rows if r["us"] and (r["a_type"], r["overlap"]) in OURS]
    shapes = list(dict.fromkeys((r["name"], r["n"], r["k"]) for r in rows))
    if not shapes:
        return []
    columns = min(PANELS_A_ROW, len(shapes))
    bands = (len(shapes) + columns - 1) // columns  # of two rows of panels each: µs above, speed-up below
    size = (max(2.6 * columns, 4.8), 4.4 * bands + 0.9)
    figure, grid = plt.subplots(2 * bands, columns, figsize=size, squeeze=False)
    for axes in grid.flat:
        axes.set_visible(False)
    for i, (name, n, k) in enumerate(shapes):
        band, column = divmod(i, columns)
        ours, theirs = _lines(rows, suite, "rows", name)
        time_axes, ratio_axes = grid[2 * band][column], grid[2 * band + 1][column]
        for axes in (time_axes, ratio_axes):
            axes.set_visible(True)
            axes.tick_params(labelsize=7)
        _time(time_axes, ours, theirs)
        time_axes.set_title(f"{name}  {n}×{k}", fontsize=9)
        _ratio(ratio_axes, ours, theirs)
        ratio_axes.set_xlabel("M, tokens", fontsize=8)
        if column == 0:
            time_axes.set_ylabel("µs", fontsize=8)
            ratio_axes.set_ylabel("speed-up over cuBLAS", fontsize=8)
    subject = "each linear (N×K) on its own"
    return _save(figure, grid.flat, suite, subject, folder / f"{suite.name}-linears")


def _draw_roofline(suite: Suite, folder: Path) -> list[Path]:
    """TFLOP/s over the FLOP that each byte which must move has to pay for: every linear at every M in bf16."""
    rows = [r for r in suite.rows if r["us"] and (r["a_type"], r["overlap"]) in OURS]
    if len(rows) < 2:
        return []
    a_type = min(r["a_type"] for r in rows)  # bf16 where there is any
    figure, axes = plt.subplots(figsize=(7.2, 4.6))
    dense = [r for r in select(rows, a_type=a_type, overlap=rows[0]["overlap"]) if r.get("cublas_us")]
    if dense:
        moved = [2 * (r["n"] * r["k"] + r["m"] * (r["k"] + r["n"])) for r in dense]
        flops = [2 * r["m"] * r["n"] * r["k"] for r in dense]
        x = [f / b for f, b in zip(flops, moved, strict=True)]
        y = [f / r["cublas_us"] / 1e6 for f, r in zip(flops, dense, strict=True)]
        axes.plot(x, y, "x", color=CUBLAS_COLOUR, label="cuBLAS, 16-bit weights")
    for overlap in (False, True):
        label, colour, marker = OURS[a_type, overlap]
        ours = select(rows, a_type=a_type, overlap=overlap)
        if ours:
            x = [1e3 * r["tflops"] / r["gb_s"] for r in ours]
            axes.plot(x, [r["tflops"] for r in ours], marker, color=colour, label=label, alpha=0.8)
    right = axes.get_xlim()[1]
    rate = suite.run["read_tb_s"]
    peak = max([r["tflops"] for r in rows] + [2e-6 * r["m"] * r["n"] * r["k"] / r["cublas_us"] for r in dense])
    ridge = peak / rate
    ends = [min(1.0, ridge), ridge, max(1.2 * right, 2 * ridge)]
    axes.plot(ends, [ends[0] * rate, peak, peak], color=FLOOR_COLOUR, zorder=0)
    note: dict[str, Any] = {"va": "bottom", "fontsize": 8, "color": "#868e96"}
    axes.annotate(f"{rate:.2f} TB/s", (2 * ends[0], 3 * ends[0] * rate), ha="right", **note)
    axes.annotate(f"the most here, {peak:.0f} TFLOP/s", (ends[2], 1.04 * peak), ha="right", **note)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("FLOP a byte that must move")
    axes.set_ylabel("TFLOP/s")
    subject = "every linear at every M, under its roofline"
    return _save(figure, [axes], suite, subject, folder / f"{suite.name}-roofline")


def _draw_model(data: Record, folder: Path) -> list[Path]:
    """Tokens a second of a whole model, decoding, as bars: torch's bf16 linears and ours."""
    rows = select(data["rows"], what="decode")
    figure, panels = plt.subplots(1, len(rows), figsize=(2.3 * len(rows) + 0.6, 3.2), squeeze=False)
    for axes, row in zip(panels.flat, rows, strict=True):
        speed = row["tokens_per_second"]
        bars = axes.bar(["bf16", "u4b8"], [speed["bf16"], speed["u4b8"]], color=[CUBLAS_COLOUR, OURS["bf16", False][1]])
        axes.bar_label(bars, [f"{speed['bf16']:.0f}", f"{speed['u4b8']:.0f}\n{row['ratio']:.2f}×"], fontsize=8)
        axes.set_ylim(top=1.2 * max(speed.values()))
        axes.set_title(f"batch {row['batch']}")
        axes.grid(axis="x", visible=False)
        axes.set_axisbelow(True)
    panels[0][0].set_ylabel("tokens/s")
    model = data["model"]
    title = f"Llama of {model['num_hidden_layers']} layers, hidden size {model['hidden_size']}: decoding"
    _title(figure, title, f"{data['machine']}, {data['prompt']} tokens of prompt, CUDA graphs, {data['date']}")
    figure.tight_layout(rect=(0, 0, 1, 1 - 0.55 / figure.get_size_inches()[1]))
    return _write(figure, folder / "end-to-end")
