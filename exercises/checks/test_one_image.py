"""Checks of the exercise `one_image`."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from expecting import integer, tensor

import fedpriv


@pytest.fixture
def seen(generator):
    images, labels = fedpriv.data.digits()
    index = int(torch.randint(len(images), (1,), generator=generator))
    x, y = images[index : index + 1].flatten(1).double(), labels[index : index + 1]
    x = x / x.max()
    model = fedpriv.models.mlp([64, 32, 10], generator=generator).double()
    gradient = list(torch.autograd.grad(F.cross_entropy(model(x), y), list(model.parameters())))
    # The first and the last neuron are off: no row is safe because of its place.
    gradient[0], gradient[1] = F.pad(gradient[0], (0, 0, 1, 1)), F.pad(gradient[1], (1, 1))
    return x[0], int(y), gradient


def picture(found, x):
    assert not (isinstance(found, torch.Tensor) and found.dim() == 2), (
        f"expected 64 pixels, got shape {tuple(found.shape)}: one row, not all"
    )
    found = tensor(found, x.shape, " (64 pixels)")
    assert found.isfinite().all(), "0 / 0: a neuron that was off has zero gradients; choose one that was on"
    assert bool(found.any()), "all pixels are zero: this neuron was off; choose one that was on"
    return found


def test_picture(answer, seen):
    x, _, gradient = seen
    found = picture(answer.picture(gradient[0], gradient[1]), x)
    assert not torch.allclose(found, -x, atol=1e-6), (
        "a negative of the picture: divide by the entry of db itself"
    )
    off = float((found - x).abs().max())
    scale = float(found @ x / (x @ x))
    assert off < 1e-6 or not torch.allclose(found, scale * x, atol=1e-6 * abs(scale)), (
        f"the right picture times {scale:.4g}: divide a row of dW by its own entry of db"
    )
    assert off < 1e-6, f"the largest error of a pixel is {off:.2g}: divide a row of dW by its own entry of db"


def test_label(answer, seen):
    _, y, gradient = seen
    found = integer(answer.label(gradient[-1]))
    largest = int(gradient[-1].argmax())
    assert found == y or found != largest, (
        "this is the class the model finds likely although it is wrong: look at signs"
    )
    assert found == y, f"the class is {y}, got {found}: p_k - 1 is negative, every other p_k is positive"


def test_picture_without_bias(answer, seen):
    x, _, gradient = seen
    for sign in (1, -1):  # backward signals have either sign
        found = picture(answer.picture_without_bias(sign * gradient[0]), x)
        assert not torch.allclose(found, -x, atol=1e-6), (
            "a negative of the picture: divide by the entry itself, not its size"
        )
        brightest = float(found.max())
        assert abs(brightest - 1) < 1e-6, (
            f"the brightest pixel is 1, got {brightest:.3g}: divide by the entry of the largest size"
        )
        off = float((found - x).abs().max())
        assert off < 1e-6, (
            f"the largest error of a pixel is {off:.2g}: a row divided by its entry of the "
            "largest size is the "
            "picture"
        )
