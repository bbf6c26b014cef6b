"""The demo and the benchmark of the matrix, with few rows."""

from __future__ import annotations

import pytest

from fedpriv.cli import scripts
from fedpriv.lab.matrix import Leak, Leaked, Learned, Limits, Plan, read_csv, read_json
from fedpriv.lab.matrix.tables import flat

LEARNED = Learned(rate=0.4, accuracy=0.9, accuracy_low=0.8, accuracy_high=1.0)


def leaked(psnr: float) -> Leaked:
    found = Leak(attack="one", psnr=psnr, psnr_low=psnr, psnr_high=psnr, refused=0.0, identified=1.0)
    return Leaked(
        change=0.5, bytes_per_round=4.0, plain=found, adaptive=found, guess_psnr=8.0, limits=Limits()
    )


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


@pytest.mark.parametrize(("name", "model"), [("defenses", "MLP"), ("defenses_convnet", "ConvNet")])
def test_a_benchmark_puts_rows_together_out_of_cells_and_draws_them(name, model, tmp_path):
    benchmark = scripts.load(scripts.find("benchmarks")[name])
    leaks = {"no defense": 120.0, "clipping 0.1": 60.0, "signs": 30.0}
    cells = {}
    for defense, psnr in leaks.items():
        cells[f"{model}, {defense}, leak"] = flat(leaked(psnr)) | {"cpu_seconds": 1.0}
        cells[f"{model}, {defense}, accuracy"] = flat(LEARNED) | {"cpu_seconds": 1.0}
    del cells[f"{model}, signs, accuracy"]
    assert set(cells) <= {cell.key for cell in benchmark.cells()}
    rows = benchmark.rows(cells)
    assert [(row.model, row.name, row.leak, row.accuracy) for row in rows] == [
        (model, "no defense", 120.0, 0.9),
        (model, "clipping 0.1", 60.0, 0.9),
    ]
    as_json, as_csv, picture = benchmark.draw({"cells": cells}, tmp_path)
    assert read_json(as_json) == read_csv(as_csv) == rows
    assert picture.stat().st_size > 10_000
