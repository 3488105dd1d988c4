"""`machete plot` over the recorded results, and what it refuses."""

import json
from pathlib import Path

import pytest

from machete.__main__ import main
from machete.results import read

BENCH = Path(__file__).parents[2] / "bench"
RESULTS = BENCH / "results"


def plot(*paths, output):
    main(["plot", *map(str, paths), "-o", str(output)])
    return {path.name for path in output.iterdir()}


def test_draws_curves_rooflines_and_bars(tmp_path, capsys):
    run = RESULTS / "h100-llama8b-2026-11-23-4.json"
    drawn = plot(run, RESULTS / "e2e", BENCH / "peers", output=tmp_path / "plots")
    names = ("llama8b-chain", "llama8b-linears", "llama8b-roofline", "end-to-end")
    assert drawn == {f"{name}.{kind}" for name in names for kind in ("svg", "png")}
    assert "llama8b-chain.svg and llama8b-chain.png" in capsys.readouterr().out
    chain = (tmp_path / "plots/llama8b-chain.svg").read_text()
    for label in ("Machete bf16", "cuBLAS bf16", "memory floor", "Marlin bf16", json.loads(run.read_text())["date"]):
        assert label in chain
    assert (tmp_path / "plots/end-to-end.png").read_bytes().startswith(b"\x89PNG")


def test_draws_chains_over_equal_steps(tmp_path):
    main(["plot", "--steps", str(RESULTS / "between"), "-o", str(tmp_path)])
    assert {path.name for path in tmp_path.iterdir()} == {"llama8b-steps.svg", "llama8b-steps.png"}
    drawn = (tmp_path / "llama8b-steps.svg").read_text()
    assert ">256<" in drawn and ">320<" in drawn  # ticks, every 64 tokens


def test_the_plots_of_the_readme_are_of_the_newest_results():
    """That each of the recorded suites has plots, which name the run that they show."""
    results = read([RESULTS, RESULTS / "e2e", BENCH / "peers"])
    assert {suite.name for suite in results.suites} == {"llama8b", "llama70b", "square", "deepseek", "odd"}
    for suite in results.suites:
        assert "bf16" in {record["a_type"] for record in suite.rows}
        drawn = (BENCH.parent / f"docs/plots/{suite.name}-linears.svg").read_text()
        assert suite.run["commit"][:10] in drawn and suite.run["date"] in drawn


def test_the_newest_run_counts(tmp_path):
    runs = (("a-llama8b-2026-01-02-2", 1.0), ("b-llama8b-2026-01-02", 2.0), ("c-llama8b-2026-01-01-9", 3.0))
    for name, us in runs:
        run = json.loads((RESULTS / "h100-llama8b-2026-11-23-4.json").read_text())
        run["date"] = name[10:20]
        run["rows"] = [run["rows"][0] | {"us": us}]
        (tmp_path / f"{name}.json").write_text(json.dumps(run))
    (tmp_path / "other.json").write_text("[1, 2]")
    (suite,) = read([tmp_path]).suites
    assert [row["us"] for row in suite.rows] == [1.0]


@pytest.mark.parametrize(
    ("contents", "message"),
    [('{"rows": []}', "is no result of"), ("{", "result.json: Expecting"), (None, "No such file")],
)
def test_refuses_what_is_no_result(contents, message, tmp_path):
    path = tmp_path / "result.json"
    if contents is not None:
        path.write_text(contents)
    with pytest.raises(SystemExit, match=message):
        plot(path, output=tmp_path)


def test_there_must_be_results(tmp_path):
    with pytest.raises(SystemExit, match="no results to draw"):
        plot(tmp_path, output=tmp_path / "plots")
    assert not (tmp_path / "plots").exists()
