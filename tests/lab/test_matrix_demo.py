"""The demo and the benchmark of the matrix, with few rows."""

from __future__ import annotations

import pytest

from fedpriv.cli import scripts
from fedpriv.lab.matrix import Plan, read_csv, read_json


def test_the_demo_measures_writes_and_explains(tmp_path, monkeypatch):
    demo = scripts.load(scripts.find("demos")["matrix"])
    monkeypatch.setattr(demo, "SHOWN", ("no defense", "clipping 0.1", "Krum"))
    monkeypatch.setattr(
        demo, "plan_for", lambda seed: Plan(seeds=(seed,), training_seeds=(seed,), rates=(0.4,), rounds=2)
    )
    result = demo.main(tmp_path, seed=42)
    assert [row.name for row in result["rows"]] == ["no defense", "clipping 0.1", "Krum"]
    assert all(row.leak > 100 for row in result["rows"])
    picture, as_json, as_csv = result["files"]
    assert picture.stat().st_size > 10_000
    assert read_json(as_json) == read_csv(as_csv) == result["rows"]
    assert "It still is behind: clipping 0.1, Krum." in demo.report(result)


@pytest.mark.slow
def test_the_demo_as_it_is(tmp_path):
    demo = scripts.load(scripts.find("demos")["matrix"])
    result = demo.main(tmp_path, seed=43)
    assert len(result["rows"]) == len(demo.SHOWN)
    rows = {row.name: row for row in result["rows"]}
    assert rows["averaging"].leak > 100
    assert rows["DP-SGD σ 1"].leak < 20


@pytest.mark.slow
def test_the_benchmark_writes_both_tables(tmp_path):
    benchmark = scripts.load(scripts.find("benchmarks")["defenses"])
    result = benchmark.main(quick=True)
    files = benchmark.draw(result, tmp_path)
    assert read_csv(files[1]) == result["rows"]
    assert "no defense" in benchmark.report(result)
