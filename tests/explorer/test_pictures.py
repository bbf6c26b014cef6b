"""Pictures of samples and updates, as PNG."""

from __future__ import annotations

import re
from io import BytesIO
from pathlib import Path

import matplotlib.image
import pytest
import torch

import fedpriv.explorer
from fedpriv.lab.explore import Choice, Data, Model, observe, pictures

CSS = (Path(fedpriv.explorer.__file__).parent / "style.css").read_text()


def pixels(png):
    return torch.from_numpy(matplotlib.image.imread(BytesIO(png))[..., :3]).permute(2, 0, 1)


@pytest.mark.parametrize("channels", [1, 3])
def test_an_image_is_drawn_pixel_by_pixel(channels):
    truth = torch.rand(channels, 5, 7, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(pixels(pictures.image(truth)), truth.expand(3, -1, -1), atol=1 / 255, rtol=0)


def test_values_outside_the_range_are_cut_off_and_what_is_not_a_number_is_gray():
    shown = pixels(pictures.image(torch.tensor([[[-3.0, 7.0, torch.nan]]])))[0, 0]
    torch.testing.assert_close(shown, torch.tensor([0.0, 1.0, 0.5]), atol=1 / 255, rtol=0)


def test_zero_is_white_and_the_signs_differ_in_lightness_too():
    shown = pixels(pictures.signed(torch.tensor([[-1.0, 0.0, 1.0]])))[:, 0]
    assert shown[:, 1].min() > 0.99
    lightness = (torch.tensor([0.2126, 0.7152, 0.0722])[:, None] * shown).sum(0)
    assert abs(float(lightness[0] - lightness[2])) > 0.2  # told apart without colors


def test_an_update_of_zeros_is_white():
    assert pixels(pictures.signed(torch.zeros(2, 2))).min() > 0.99


@pytest.mark.parametrize(
    ("choice", "shape"),
    [
        (Choice(), (8, 8)),
        (Choice(data=Data.PHOTOGRAPHS, batch_size=1), (24, 24)),
        (Choice(model=Model.LENET, batch_size=1), (5, 5)),
    ],
    ids=["digits", "photographs", "filters"],
)
def test_the_rows_of_the_update_have_the_shape_of_the_samples(choice, shape):
    rows = pictures.rows_of_update(observe(choice))
    assert len(rows) == pictures.MOST_ROWS
    assert all(tuple(row.shape) == shape for _, row in rows)


def test_of_one_sample_every_row_of_the_update_is_that_sample_up_to_a_factor():
    scene = observe(Choice(batch_size=1, seed=4))
    truth = scene.truth[0].flatten()
    for _, row in pictures.rows_of_update(scene):
        cosine = torch.nn.functional.cosine_similarity(row.flatten(), truth, dim=0)
        assert abs(float(cosine)) > 0.9999


def test_the_numbers_of_a_linear_model_are_one_row_a_visit():
    scene = observe(Choice(data=Data.POINTS, model=Model.LINEAR, batch_size=2, visits=3))
    headings, rows = pictures.numbers_of_update(scene)
    assert len(headings) == 3
    for row, observation in zip(rows, scene.observations, strict=True):
        sent = torch.cat([t.flatten() for t in observation.update.tensors.values()])
        assert row == pytest.approx(sent.tolist())


def luminance(color):
    channels = [int(color[k : k + 2], 16) / 255 for k in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


@pytest.mark.parametrize("name", ["blue", "orange", "ink", "gray"])
def test_text_has_the_contrast_that_weak_eyes_need(name):
    color, soft = (re.search(rf"--fp-{n}: (#\w{{6}});", CSS).group(1) for n in (name, "soft"))
    assert (luminance(soft) + 0.05) / (luminance(color) + 0.05) >= 4.5  # WCAG 2.2, 1.4.3
