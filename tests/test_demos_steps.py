"""The demos of several visits and of several local steps, on other seeds than the documentation's."""

from __future__ import annotations

import re

import pytest

from fedpriv.cli import scripts


def load(name):
    return scripts.load(scripts.find("demos")[name])


def test_the_second_visit_gives_back_what_the_first_does_not(tmp_path, monkeypatch):
    demo = load("rounds")
    monkeypatch.setattr(demo, "BATCH", 20)
    monkeypatch.setattr(demo, "WIDTH", 32)
    result = demo.main(tmp_path, seed=1)
    first, second, third = result["attempts"]
    assert first["recovered"] < 0.7  # a search finds some
    assert first["certified"] == 0
    assert second["recovered"] == second["labels_right"] == third["recovered"] == 1.0


@pytest.mark.slow
def test_the_first_visit_gives_hardly_anything_back(tmp_path):
    demo = load("rounds")
    result = demo.main(tmp_path, seed=1)
    first, second, _ = result["attempts"]
    assert first["recovered"] < 0.1
    assert second["recovered"] == 1.0
    assert "A batch size that is safe once is not safe twice" in re.sub(r"\s+", " ", demo.report(result))


def test_the_demo_of_two_visits_names_the_limits_of_counting():
    """n < m / 2 for one visit, n < 2 m / 3 for two: docs/consistency_peeling.md, section 7."""
    demo = load("rounds")
    assert f"has equations for at most {demo.WIDTH // 2}, two for {2 * demo.WIDTH // 3}." in demo.__doc__
    assert demo.WIDTH // 2 < demo.BATCH < 2 * demo.WIDTH // 3


def test_replay_brings_the_faces_back_after_ten_steps(tmp_path, monkeypatch):
    demo = load("local_steps")
    monkeypatch.setattr(demo, "STEPS", (10,))
    monkeypatch.setattr(demo, "RATES", (0.2,))
    result = demo.main(tmp_path, seed=1)
    (row,) = result["rows"]
    assert row["replay"]["claimed"] == result["batch"] == 9
    assert row["replay"]["recovered"] == row["replay"]["labels_right"] == 1.0
    assert row["replay"]["rms_error"] < row["equations alone"]["rms_error"] / 10
    assert all(path.stat().st_size > 5_000 for path in result["files"])
