"""The demo of the passengers, on another seed than the documentation's, small and short."""

from __future__ import annotations

from fedpriv.cli import scripts


def test_passengers_come_back_and_are_set_beside_a_guess(tmp_path, monkeypatch):
    demo = scripts.load(scripts.find("demos")["tabular"])
    for name, value in {"SIZES": (2, 4), "SHOWN": 4, "STEPS": 150}.items():
        monkeypatch.setattr(demo, name, value)
    result = demo.main(tmp_path, seed=5)
    for row in result["sizes"].values():
        assert row["labels_found"]
        assert row["TabLeak"] > 0.9 > row["guess"]
        assert row["peeling"] == 1.0
    assert all(path.stat().st_size > 10_000 for path in result["files"])
    said = demo.report(result)
    assert "guess, no gradient" in said
