"""Checks of the exercise `broken_defenses`."""

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
    model = fedpriv.models.mlp([64, 128, 10], generator=generator).double()
    gradient = torch.autograd.grad(F.cross_entropy(model(x), y), list(model.parameters()))[:2]
    size = torch.cat([g.abs().flatten() for g in gradient]).quantile(0.8)
    return x[0], [torch.where(g.abs() > size, g, torch.zeros(())) for g in gradient]


def test_arrived(answer):
    sent = torch.tensor([[0.5, 0.0], [-0.2, 0.0]])
    found = answer.arrived(sent)
    assert found.dtype == torch.bool, f"expected True and False, got {found.dtype}"
    assert not torch.equal(found, sent > 0), "negative entries arrived, too: compare with zero for inequality"
    assert torch.equal(found, torch.tensor([[True, False], [True, False]])), "what is not zero arrived"


def test_pixels(answer, seen):
    x, (weight, bias) = seen
    found = answer.pixels(weight, bias)
    assert found.shape == x.shape, f"expected 64 pixels, got shape {tuple(found.shape)}"
    assert found.isfinite().all(), "0 / 0: some pixels have no entry at all; they stay 0"
    visible = ((weight != 0) & (bias != 0)[:, None]).any(dim=0)
    plain = weight.T @ bias / bias.square().sum()
    assert not torch.allclose(found, plain), (
        "entries that did not arrive count as zeros: sum over those that did"
    )
    off = float((found - x)[visible].abs().max())
    assert off < 1e-9, (
        f"the largest error of a visible pixel is {off:.2g}: what arrived is exact, so is the pixel"
    )
    assert bool((found[~visible] == 0).all()), "pixels without any entry stay 0"


def test_unclipped(answer, generator):
    true = torch.randn(20, generator=generator)
    factor = 0.1 + 0.8 * float(torch.rand(1, generator=generator))
    found = answer.unclipped(factor * true, float(true[3]), float(factor * true[3]))
    assert not torch.allclose(found, factor * factor * true, atol=1e-6), (
        "the wrong way: clipping made it shorter"
    )
    assert torch.allclose(found, true, atol=1e-4), "the factor is the ratio of the true to the clipped number"
