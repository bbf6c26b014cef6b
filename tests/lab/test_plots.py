"""Pictures: what is drawn is what was passed in, pixel by pixel, and bad input is named."""

from __future__ import annotations

import math
import sys

import matplotlib.image
import numpy as np
import pytest
import torch

from fedpriv.lab import compare_images, plot_error_vs_noise, plot_points, plot_visits
from fedpriv.lab.plots._style import STYLES


def test_images_keep_their_pixels_and_their_range(tmp_path):
    # One bright pixel in four. Any smoothing would put further gray levels into its neighborhood.
    truth = torch.tensor([[[1.0, 0.0], [0.0, 0.0]]])
    path = compare_images(truth, truth * 0.5, tmp_path / "new" / "x.png", title="")
    picture = matplotlib.image.imread(path)[..., 0]
    half = picture[picture.shape[0] // 2 :]
    bright, dim = (np.isclose(part, value, atol=0.02).mean() for part, value in ((picture, 1.0), (half, 0.5)))
    assert bright > 0.3
    assert dim > 0.05  # a quarter of the lower image, gray as it was: one range for both rows


def test_equal_pictures_are_equal_files(tmp_path):
    truth = torch.rand(3, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    files = [compare_images(truth, truth.flip(0), tmp_path / name) for name in ("a.png", "b.png")]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_missing_color_and_labeled_rows_are_drawn(tmp_path):
    truth = torch.rand(3, 3, 6, 6) * 4 - 2
    rows = {"plain": truth[:1], "with noise": torch.full_like(truth, math.nan)}
    assert compare_images(truth, rows, tmp_path / "x.png", max_columns=2).stat().st_size > 1000


def test_points_visits_and_noise_are_drawn(tmp_path):
    points = {"bob": torch.tensor([[0.0, 0.0], [0.0, 1.0]]), "alice": torch.tensor([[1.0, 0.0]])}
    written = [
        plot_points(points, {"bob": points["bob"]}, tmp_path / "points.png"),
        plot_visits(
            {"bob": [0.5, 1e-6, 0.0], "alice": [math.nan, 1e-4]}, tmp_path / "visits.png", threshold=1e-3
        ),
        plot_error_vs_noise([0.1, 1.0], {"T1": [0.2, 2.0]}, tmp_path / "n.png", bound=[0.1, 1.0], guess=0.5),
    ]
    for path in written:
        assert matplotlib.image.imread(path).std() > 0.01


def test_colors_differ_in_lightness():
    weights = np.array([0.299, 0.587, 0.114])  # luma of ITU-R BT.601, what a gray printer makes of a color
    gray = sorted(float(weights @ [int(s.color[i : i + 2], 16) for i in (1, 3, 5)]) for s in STYLES)
    assert min(np.diff(gray)) > 25  # a tenth of the whole scale
    assert len({s.marker for s in STYLES}) == len(STYLES)


def test_pyplot_and_its_global_state_are_not_touched(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)  # importing it would raise
    assert plot_visits({"bob": [1.0, 0.1]}, tmp_path / "x.png").is_file()


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda p: compare_images(torch.zeros(2, 5), torch.zeros(2, 5), p), "expected images of shape"),
        (
            lambda p: compare_images(torch.zeros(2, 2, 5, 5), torch.zeros(2, 2, 5, 5), p),
            "expected images of shape",
        ),
        (lambda p: compare_images(torch.zeros(1, 5, 5), {}, p), "0 reconstructions"),
        (
            lambda p: compare_images(torch.zeros(1, 5, 5), torch.zeros(1, 5, 5), p, max_columns=0),
            "at least 1",
        ),
        (lambda p: plot_points({"bob": torch.zeros(2, 3)}, {}, p), r"points of shape \(n, 2\) for 'bob'"),
        (lambda p: plot_visits({"bob": [-1.0]}, p), "non-negative errors for 'bob'"),
        (lambda p: plot_error_vs_noise([0.0, 1.0], {}, p), "a log axis has no zero"),
        (
            lambda p: plot_error_vs_noise([1.0], {"T1": [1.0, 2.0]}, p),
            "expected 1 non-negative errors for 'T1'",
        ),
    ],
)
def test_bad_input_is_named(tmp_path, call, words):
    with pytest.raises(ValueError, match=words):
        call(tmp_path / "x.png")
