"""Checks of the exercise `one_image`."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

import fedpriv


@pytest.fixture
def seen(generator):
    images, labels = fedpriv.data.digits()
    index = int(torch.randint(len(images), (1,), generator=generator))
    x, y = images[index : index + 1].flatten(1).double(), labels[index : index + 1]
    x = x / x.max()
    model = fedpriv.models.mlp([64, 32, 10], generator=generator).double()
    gradient = torch.autograd.grad(F.cross_entropy(model(x), y), list(model.parameters()))
    return x[0], int(y), gradient


def test_picture(answer, seen):
    x, _, gradient = seen
    found = answer.picture(gradient[0], gradient[1])
    assert found.shape == x.shape, f"expected 64 pixels, got shape {tuple(found.shape)}: one row, not all"
    assert found.isfinite().all(), "0 / 0: a neuron that was off has zero gradients; choose one that was on"
    off = float((found - x).abs().max())
    assert off < 1e-6, f"the largest error of a pixel is {off:.2g}: divide a row of dW by its own entry of db"


def test_label(answer, seen):
    _, y, gradient = seen
    found = answer.label(gradient[-1])
    largest = int(gradient[-1].argmax())
    assert found == y or found != largest, (
        "this is the class the model finds likely although it is wrong: look at signs"
    )
    assert found == y, f"the class is {y}, got {found}: p_k - 1 is negative, every other p_k is positive"


def test_picture_without_bias(answer, seen):
    x, _, gradient = seen
    found = answer.picture_without_bias(gradient[0])
    assert found.shape == x.shape, f"expected 64 pixels, got shape {tuple(found.shape)}"
    assert found.isfinite().all(), "0 / 0: this row is zero; take the longest row"
    assert not torch.allclose(found, -x, atol=1e-6), (
        "a negative of the picture: divide by the entry itself, not its size"
    )
    assert abs(float(found.max()) - 1) < 1e-6, f"the brightest pixel is 1, got {float(found.max()):.3g}"
    off = float((found - x).abs().max())
    assert off < 1e-6, f"the largest error of a pixel is {off:.2g}"
