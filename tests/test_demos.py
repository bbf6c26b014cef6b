"""Every demo runs, and what it concludes holds for other seeds than the one in the README."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fedpriv.cli import scripts
from fedpriv.defenses import Averaging

PICTURES = Path(__file__).parents[1] / "docs" / "images"


def load(name):
    return scripts.load(scripts.find("demos")[name])


@pytest.mark.parametrize("seed", range(1, 6))
def test_tutorial_restores_all_points_with_a_certificate(seed, tmp_path):
    result = load("tutorial").main(tmp_path, seed=seed)
    for client, points in (("bob", [[0, 0], [0, 1]]), ("alice", [[1, 0], [1, 1]])):
        row = result[client]
        assert row["certified"]
        assert row["visits_used"] <= 4
        assert row["max_abs_error"] < 1e-3 < row["guess_max_abs_error"]
        assert sorted(row["inputs"].round().tolist()) == points
    assert all(path.stat().st_size > 10_000 for path in result["files"])


@pytest.mark.parametrize("seed", range(1, 4))
def test_one_image_restores_picture_and_label(seed, tmp_path):
    result = load("one_image").main(tmp_path, seed=seed)
    for name in ("digit", "face"):
        row = result[name]
        assert row["certified"]
        assert row["recovered_label"] == row["label"]
        assert row["psnr"] > 90 > 40 > row["guess_psnr"]


def test_averaging_hides_whose_but_not_what(tmp_path):
    demo = load("averaging")
    result = demo.main(tmp_path, seed=3)
    for defense in ("averaging", "secret_sharing"):
        rows = result[defense]
        assert "bob" in rows["bob"]["refusal"]
        known = rows["pooled"]["determined"]
        assert int(known["num_samples"]) == 4
        torch.testing.assert_close(
            known["mean"], torch.tensor([0.5, 0.5], dtype=torch.float64), atol=1e-3, rtol=0
        )
        # All four points of the tutorial; the order in which they come back carries no name.
        assert sorted(rows["pooled_with_prior"]["inputs"].tolist()) == [[0, 0], [0, 1], [1, 0], [1, 1]]
    assert "no arithmetic tells which" in demo.report(result)


def test_a_secure_sum_survives_a_dropout_and_two_of_them_give_her_away(tmp_path):
    demo = load("averaging")
    result = demo.main(tmp_path, seed=4)
    secure = result["secure_aggregation"]
    assert secure["survivors"] == ("bob", "alice")
    assert "the masked vector" in secure["messages"]
    assert "keys of 1 lost clients" in secure["messages"]
    assert "refusal" in secure["bob"]
    # The sum says as much as a trusted average does.
    assert sorted(secure["pooled_with_prior"]["inputs"].tolist()) == [[0, 0], [0, 1], [1, 0], [1, 1]]
    inputs, targets = demo.carol()
    found = sorted(zip(secure["carol"]["inputs"].tolist(), secure["carol"]["targets"].tolist(), strict=True))
    expected = sorted(zip(inputs.tolist(), targets.tolist(), strict=True))
    for (x, y), (true_x, true_y) in zip(found, expected, strict=True):
        assert x == pytest.approx(true_x, abs=1e-3)
        assert y == pytest.approx(true_y, abs=1e-3)
    assert secure["carol"]["certified"]
    assert "the masked vector" in demo.report(result)
    assert all(path.stat().st_size > 5_000 for path in result["files"])


def test_averaging_leaves_nothing_of_bob_alone_in_the_transcript():
    demo = load("averaging")
    run = demo.train([Averaging()], seed=0)
    assert run.transcript.senders == ("aggregator",)
    assert run.transcript.updates("bob") == []


def test_noise_lies_on_the_bound(tmp_path, monkeypatch):
    demo = load("noise")
    monkeypatch.setattr(demo, "LEVELS", (1e-4, 1e-2, 1.0))
    result = demo.main(tmp_path, seed=5)
    small = result["levels"][:2]
    for row in small:
        assert row["refused"] == 0
        # 100 draws of a mean of 4 squares: the ratio varies by about 10 %; three standard errors either way.
        slack = 3 * row["standard_error"]
        assert row["mse"] + slack > row["cramer_rao_bound"]
        assert row["mse"] - slack < row["cramer_rao_bound"] * 1.1
    assert result["levels"][2]["refused"] > 0  # noise above the distance between the points stops it
    assert "significantly below it: 0" in demo.report(result)


def test_batch_restores_every_digit(tmp_path):
    result = load("batch").main(tmp_path, seed=1)
    assert result["claimed"] == result["batch"]
    assert result["recovered"] == result["labels_right"] == 1.0
    assert result["certified"] >= 0.9 * result["batch"]
    assert result["worst_psnr"] > 60 > 20 > result["guess_best_psnr"]


def test_averaged_clients_lose_their_names_only(tmp_path):
    demo = load("averaged_clients")
    result = demo.main(tmp_path, seed=1)
    assert "person 1" in result["refusal"]
    assert result["recovered"] == result["labels_right"] == 1.0
    assert "attribution" in demo.report(result)


def test_every_activation_is_passed(tmp_path, monkeypatch):
    demo = load("activations")
    monkeypatch.setattr(demo, "BATCH", 8)
    result = demo.main(tmp_path, seed=1)
    assert len(result["activations"]) == 8
    assert all(row["recovered"] == row["labels_right"] == 1.0 for row in result["activations"].values())


@pytest.mark.slow
def test_layers_restores_face_and_photograph(tmp_path):
    demo = load("layers")
    result = demo.main(tmp_path, seed=0)
    assert all(path.stat().st_size > 5_000 for path in result["files"])
    assert "Depth does not hide" in demo.report(result)


@pytest.mark.slow
def test_text_restores_every_sentence(tmp_path):
    demo = load("text")
    assert "Every sentence came back" in demo.report(demo.main(tmp_path, seed=0))


def test_pointers_let_nothing_out_before_bob_says_so():
    demo = load("pointers")
    result = demo.step(seed=3)
    *before, last = result["rows"]
    assert all(row["from_bob"] == 0 for row in before)
    assert last["from_bob"] == 3 * 4  # two weights and a bias in float32
    assert sum(row["to_bob"] for row in before) == (4 + 2 + 3) * 4  # two points, two targets, the model
    assert "bob.release" in result["refusal"]
    assert result["refusal"] in demo.report(result)


@pytest.mark.parametrize(
    ("picture", "name", "file"),
    [("batch", "batch", "batch"), ("tutorial", "tutorial", "tutorial_points")],
)
def test_the_pictures_in_the_pages_are_those_that_the_demos_draw(picture, name, file, tmp_path):
    load(name).main(tmp_path, seed=0)
    shown, drawn = (
        np.asarray(Image.open(path).convert("L"), dtype=float)
        for path in (PICTURES / f"{picture}.png", tmp_path / f"{file}.png")
    )
    assert shown.shape == drawn.shape
    assert np.abs(shown - drawn).mean() < 2  # of 255; edges of letters differ between machines
