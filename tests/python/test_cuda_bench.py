"""machete.bench on a GPU, drawn by `machete plot`. Skipped where there is none."""

import json

import pytest

from machete.__main__ import main
from test_cuda import pytestmark  # noqa: F401


@pytest.mark.parametrize("options", [[], ["--overlap"]])
def test_times_are_recorded_and_drawn(options, tmp_path, capsys):
    path = tmp_path / "results.json"
    shapes = ("--shape", "2048x1024", "--shape", "512x640")
    main(["bench-torch", *shapes, "--m", "1,16,130", "--a", "bf16,f16", "--json", str(path), *options])
    assert capsys.readouterr().out.count("all in turn") == 6
    results = json.loads(path.read_text())
    assert results["machine"]["sms"] > 0 and 1 < results["read_tb_s"] < 6 and results["overlap"] == bool(options)
    rows = results["rows"]
    assert [(r["name"], r["m"]) for r in rows[:3]] == [("2048x1024", 1), ("512x640", 1), ("2048x1024", 16)]
    assert len(rows) == 12 and len(results["chains"]) == 6
    for row in rows:
        assert 0 < row["read_floor_us"] < row["us"] < 1e3 and 0 < row["cublas_us"] < 1e3
        assert 0 < row["rel_error"] < 0.004
        assert row["schedule"] and row["w_type"] == "u4b8"
    main(["plot", str(path), "-o", str(tmp_path)])
    assert (tmp_path / "shapes-chain.svg").is_file() and (tmp_path / "shapes-roofline.png").is_file()


def test_other_types(tmp_path):
    path = tmp_path / "results.json"
    main(["bench-torch", "--shape", "256x256", "--m", "4", "--a", "bf16", "--type", "u4", "--json", str(path)])
    (row,) = json.loads(path.read_text())["rows"]
    assert row["w_type"] == "u4" and row["rel_error"] < 0.004
