"""The package's command: `machete`, or `python -m machete`. What it does not know is handed over to that of C++."""

import argparse
import json
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from machete._native import DTYPES
from machete.bench import SUITES, TOKENS, bench


def main(arguments: Sequence[str] | None = None) -> None:
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = argparse.ArgumentParser(
        prog="machete",
        description="Measures linears through torch, and draws what was measured.",
        epilog="Other commands (quantize, verify, bench, ...) are those of the machete of C++, found on PATH.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_plot(commands.add_parser("plot", help="draw recorded results, as PNG and SVG"))
    _add_bench(commands.add_parser("bench-torch", help="time linears beside cuBLAS, called from torch (GPU)"))
    if arguments and not arguments[0].startswith("-") and arguments[0] not in commands.choices:
        _hand_over(arguments)
    options = parser.parse_args(arguments)
    try:
        options.run(options)
    except (ImportError, NotImplementedError, OSError, RuntimeError, ValueError) as error:
        sys.exit(f"machete: {error}")


def _hand_over(arguments: Sequence[str]) -> None:
    """Becomes the command of C++."""
    for folder in os.get_exec_path():
        path = Path(folder, "machete")
        if os.access(path, os.X_OK) and _is_binary(path):
            os.execv(path, [str(path), *arguments])
    sys.exit(
        f"machete: {arguments[0]} is a command of C++, which is not on PATH (cmake --install); of Python there are "
        "plot and bench-torch"
    )


def _is_binary(path: Path) -> bool:
    """And no script, as this command itself is in every environment."""
    with path.open("rb") as file:
        return file.read(4) == b"\x7fELF"


def _add_plot(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "results",
        nargs="+",
        type=Path,
        metavar="RESULTS",
        help="JSON files of `machete bench`, bench/e2e.py and peers, or folders of them; the newest of a suite counts",
    )
    parser.add_argument("-o", "--output", type=Path, default=Path(), metavar="DIR", help="where to; default: here")
    parser.add_argument("--steps", action="store_true", help="chains alone, over M in equal steps")
    parser.set_defaults(run=_plot)


def _plot(options: argparse.Namespace) -> None:
    try:
        from machete.plot import draw
    except ModuleNotFoundError as error:
        raise ImportError(f"plots need {error.name}; pip install 'machete-kernels[plot]'") from None
    for path in draw(options.results, options.output, steps=options.steps):
        print(f"wrote {path} and {path.with_suffix('.png').name}")


def _add_bench(parser: argparse.ArgumentParser) -> None:
    shapes = parser.add_mutually_exclusive_group()
    shapes.add_argument("--suite", choices=SUITES, default="llama8b", help="linears of a model; default llama8b")
    shapes.add_argument("--shape", type=_shape, action="append", metavar="NxK", help="linears of these sizes instead")
    parser.add_argument("--m", type=_numbers, default=TOKENS, metavar="M,...", help="tokens; default 1, 2, ..., 8192")
    parser.add_argument("--a", default="bf16,f16", metavar="TYPE,...", help="activation types; default bf16,f16")
    parser.add_argument("--type", default="u4b8", metavar="TYPE", help="weight type; default u4b8")
    parser.add_argument("--group-size", type=int, default=128, metavar="SIZE", help="default 128")
    parser.add_argument("--overlap", action="store_true", help="programmatic dependent launch")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results here, for `machete plot`")
    parser.set_defaults(run=_bench)


def _shape(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d+)x(\d+)", text)
    if not found:
        raise argparse.ArgumentTypeError(f"{text} must be NxK, such as 6144x4096")
    return int(found[1]), int(found[2])


def _numbers(text: str) -> list[int]:
    if not re.fullmatch(r"\d+(,\d+)*", text):
        raise argparse.ArgumentTypeError(f"{text} must be numbers of tokens, such as 1,16,256")
    return [int(part) for part in text.split(",")]


def _bench(options: argparse.Namespace) -> None:
    unknown = [name for name in options.a.split(",") if name not in DTYPES]
    if unknown:
        raise ValueError(f"--a {unknown[0]} is none of {', '.join(DTYPES)}")
    if options.json and not options.json.parent.is_dir():
        raise ValueError(f"--json {options.json}: there is no folder {options.json.parent}")
    results = bench(
        {f"{n}x{k}": (n, k) for n, k in options.shape} if options.shape else options.suite,
        options.m,
        dtypes=[DTYPES[name] for name in options.a.split(",")],
        weight_type=options.type,
        group_size=options.group_size,
        overlap=options.overlap,
        progress=True,
    )
    gpu = results["machine"]["gpu"]
    print(f"{gpu}, torch {torch.__version__}; reading alone {results['read_tb_s']:.2f} TB/s")
    print(f"{'linear':>12} {'M':>6} {'type':>5} {'us':>9} {'cuBLAS':>9} {'x cuBLAS':>9} {'floor us':>9}")
    for row in results["rows"] + results["chains"]:
        us, cublas_us, name = row["us"], row["cublas_us"], row.get("name", "all in turn")
        times = f"{us:9.2f} {cublas_us:9.2f} {cublas_us / us:9.2f} {row['read_floor_us']:9.2f}"
        print(f"{name:>12} {row['m']:6} {row['a_type']:>5} {times}")
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
