"""The demos of blockwise inversion: small and quick here, as they are shown where tests may be slow."""

from __future__ import annotations

import time

import pytest
import torch

from fedpriv.cli import scripts
from fedpriv.lab.plots.strips import plot_strips


def load(name):
    return scripts.load(scripts.find("demos")[name])


@pytest.fixture
def own_clock(monkeypatch):
    """Time budgets count what this process computes: other work on the machine does not matter."""
    monkeypatch.setattr(time, "perf_counter", time.process_time)


@pytest.mark.usefixtures("own_clock")
def test_optimise_shows_every_stage(tmp_path, monkeypatch):
    demo = load("optimise")
    for name, value in {"STEPS": 20, "SHOWN": (1, 15), "SECONDS": 1.5}.items():
        monkeypatch.setattr(demo, name, value)
    result = demo.main(tmp_path, seed=3)
    for row in result["pictures"].values():
        assert {"search, step 1", "search, step 15", "result", "usual search"} <= set(row["psnr"])
        assert row["label_found"]
    assert all(path.stat().st_size > 5_000 for path in result["files"])
    text = demo.report(result)
    assert "search, step 15" in text
    assert "xact" in text


@pytest.mark.usefixtures("own_clock")
def test_batch_images_has_the_head_exactly(tmp_path, monkeypatch):
    demo = load("batch_images")
    for name, value in {"PEOPLE": 3, "CHANNELS": 12, "SECONDS": 1.5, "SECONDS_USUAL": 0.5}.items():
        monkeypatch.setattr(demo, name, value)
    result = demo.main(tmp_path, seed=3)
    assert result["head"]["found"] == 3
    assert result["head"]["labels_right"]
    assert result["head"]["relative_error"] < 1e-3
    assert "3 people" in demo.report(result)


@pytest.mark.slow
@pytest.mark.usefixtures("own_clock")
def test_eight_faces_are_exact(tmp_path):
    demo = load("batch_images")
    result = demo.main(tmp_path, seed=1)
    assert min(result["block by block"]["psnr"]) > 60 > 25 > max(result["usual search"]["psnr"])
    assert "Every face is exact" in demo.report(result)


@pytest.mark.slow
@pytest.mark.usefixtures("own_clock")
def test_a_face_is_exact(tmp_path):
    row = load("optimise").main(tmp_path, seed=1)["pictures"]["face"]
    assert row["psnr"]["result"] > 60 > 25 > row["psnr"]["usual search"]


@pytest.mark.parametrize("strips", [{}, {"row": {}}, {"row": {"four channels": torch.zeros(4, 5, 5)}}])
def test_strips_are_refused_in_words(strips, tmp_path):
    with pytest.raises(ValueError, match="expected"):
        plot_strips(strips, tmp_path / "strips.png", title="nothing")
