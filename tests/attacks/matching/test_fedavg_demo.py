"""The demo of local epochs, on another seed than the documentation's."""

from __future__ import annotations

from fedpriv.cli import scripts


def test_replay_shows_what_one_large_step_does_not(tmp_path, monkeypatch):
    demo = scripts.load(scripts.find("demos")["fedavg"])
    monkeypatch.setattr(demo, "RUNS", ((2, 0.1),))
    monkeypatch.setattr(demo, "ITERATIONS", 80)
    result = demo.main(tmp_path, seed=5)
    (row,) = result["rows"]
    assert row["labels_right"]
    assert row[demo.OWN]["psnr"] > row[demo.ONE]["psnr"] + 2
    assert all(path.stat().st_size > 5_000 for path in result["files"])
    assert "a guessed order cannot be proved" in demo.report(result)
