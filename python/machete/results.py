"""Recorded measurements: what the benchmark, e2e.py and other kernels have left in JSON files."""

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Record = dict[str, Any]


def select(records: Iterable[Record], **wanted: Any) -> list[Record]:
    return [r for r in records if all(r.get(key) == value for key, value in wanted.items())]


@dataclass
class Line:
    """Microseconds over M, ours or a peer's, with cuBLAS's on the same problem."""

    ms: list[int] = field(default_factory=list)
    us: list[float] = field(default_factory=list)
    cublas: list[float | None] = field(default_factory=list)
    floor: list[float | None] = field(default_factory=list)

    @classmethod
    def of(cls, records: Iterable[Record]) -> "Line":
        """The first record of each M counts: with all schedules timed, that is the planner's choice."""
        by_m: dict[int, Record] = {}
        for record in records:
            if record["us"]:  # null: the result was wrong
                by_m.setdefault(record["m"], record)
        line = cls()
        for m, record in sorted(by_m.items()):
            line.ms.append(m)
            line.us.append(record["us"])
            line.cublas.append(record.get("cublas_us"))
            line.floor.append(record.get("read_floor_us"))
        return line

    def ratio(self) -> tuple[list[int], list[float]]:
        points = [(m, c / u) for m, u, c in zip(self.ms, self.us, self.cublas, strict=True) if u and c]
        return [m for m, _ in points], [r for _, r in points]


@dataclass
class Suite:
    """The newest results of a suite: a run with plain launches, one that overlaps, or both, and its peers."""

    name: str
    run: Record  # its machine, date, commit and rate of reading are told
    rows: list[Record]
    chains: list[Record]
    group_size: int
    peers: list[Record]


@dataclass
class Results:
    suites: list[Suite]
    model: Record | None  # the newest from end to end


def read(paths: Sequence[Path]) -> Results:
    """The newest results of each suite, and of a whole model, in these files and in the *.json of these folders.

    OSError, ValueError: a file that cannot be read, or that is none of the three. Folders may hold others.
    """
    runs: list[tuple[Path, Record]] = []
    models: list[Record] = []
    peers: list[Record] = []
    for path in paths:
        for file in sorted(path.glob("*.json")) if path.is_dir() else [path]:
            data = _load(file)
            if "peer" in data:
                peers.append(data)
            elif "tokens_per_second" in _first_row(data) and "prompt" in data:
                models.append(data)
            elif "read_tb_s" in data and "us" in _first_row(data):
                if not path.is_dir() or data.get("epilogue", "none") == "none":
                    runs.append((file, data))
            elif not path.is_dir():
                raise ValueError(f"{file} is no result of `machete bench --json`, of e2e.py, nor a peer's")
    newest: dict[str, dict[bool, Record]] = {}
    for _, data in sorted(runs, key=_age):
        for name in dict.fromkeys(row["suite"] for row in data["rows"]):
            newest.setdefault(name, {})[data.get("overlap", False)] = data
    suites = [_suite(name, by_overlap, peers) for name, by_overlap in newest.items()]
    return Results(suites, max(models, key=lambda data: data["date"], default=None))


def _load(path: Path) -> Record:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return data if isinstance(data, dict) else {}


def _first_row(data: Record) -> Record:
    rows = data.get("rows")
    return rows[0] if isinstance(rows, list) and rows and isinstance(rows[0], dict) else {}


def _age(run: tuple[Path, Record]) -> tuple[str, int, str]:
    """By date, then by the run's number that day: <gpu>-<suite>-<yyyy-mm-dd>[-n].json."""
    path, data = run
    number = re.search(r"\d{4}-\d{2}-\d{2}-(\d+)$", path.stem)
    return data["date"], int(number.group(1)) if number else 0, path.name


def _suite(name: str, by_overlap: dict[bool, Record], peers: list[Record]) -> Suite:
    run = by_overlap.get(False) or by_overlap[True]
    group_size = select(run["rows"], suite=name)[0]["group_size"]
    rows, chains = (
        [
            {**record, "overlap": overlap}
            for overlap in (False, True)
            for record in select(by_overlap.get(overlap, {}).get(key, []), suite=name)
        ]
        for key in ("rows", "chains")
    )
    # Other cards' times say nothing here, nor do other groups'.
    beside = [p for p in peers if p["gpu"] == run["machine"]["gpu"] and p["group_size"] == group_size]
    beside = [p for p in beside if p["w_type"] == rows[0]["w_type"] and select(p["rows"], suite=name)]
    return Suite(name, run, select(rows, group_size=group_size), chains, group_size, beside)
