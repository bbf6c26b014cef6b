"""Checks of the exercise `broken_defenses`."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from expecting import none_of, show, tensor, truths

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
    sent = torch.tensor([[0.5, 0.0, 1e-9], [-0.2, 0.0, 0.0]])
    found = truths(answer.arrived(sent), sent.shape, "entry")
    assert not torch.equal(found, sent > 0), "negative entries arrived, too: compare with zero for inequality"
    assert not torch.equal(found, sent == 0), "upside down: what is zero did NOT arrive"
    assert not torch.equal(found, sent.abs() > 1e-3), "small entries arrived, too: compare with zero itself"
    assert torch.equal(found, sent != 0), "what is not zero arrived, and nothing else"


def test_pixels(answer, seen):
    x, (weight, bias) = seen
    found = tensor(answer.pixels(weight, bias), x.shape, " (64 pixels)")
    assert found.isfinite().all(), "0 / 0: some pixels have no entry at all; they stay 0"
    there = weight != 0
    visible = (there & (bias != 0)[:, None]).any(dim=0)
    right, top = torch.where(visible, x, 0.0), weight.T @ bias
    squares = (bias.square()[:, None] * there).sum(dim=0)
    squares = squares.where(squares > 0, torch.ones(()))
    mistakes = [
        (top / bias.square().sum(), "entries that did not arrive count as zeros: sum over those that did"),
        (top, "divide by the sum of db_i² over the neurons where dW_ij arrived"),
        (top / squares.sqrt(), "divide by the sum of db_i², not by its root"),
        (squares / top.where(top != 0, torch.ones(())), "upside down: db_i dW_ij above, db_i² below"),
    ]
    none_of(found, mistakes, right)
    off = float((found - x)[visible].abs().max())
    assert off < 1e-6, (
        f"the largest error of a visible pixel is {off:.2g}: what arrived is exact, so is the "
        "pixel; sum over the "
        "neurons where dW_ij arrived"
    )
    assert bool((found[~visible] == 0).all()), "pixels without any entry stay 0"


def test_unclipped(answer, generator):
    true = torch.randn(20, generator=generator)
    for factor in (0.1 + 0.8 * float(torch.rand(1, generator=generator)), 1.0):
        cut = factor * true
        found = tensor(answer.unclipped(cut.clone(), float(true[3]), float(cut[3])), true.shape)
        mistakes = [
            (factor * cut, "the wrong way: clipping made it shorter"),
            (cut, "this is the clipped update: divide by the factor"),
            (
                cut + true[3] - cut[3],
                "clipping multiplies: the ratio of the two numbers, not their difference",
            ),
            (cut / cut[3], "times the true number: the factor is a ratio of two numbers"),
            (cut * true[3], "divided by the clipped number: the factor is a ratio of two numbers"),
            (true / factor, "divided by the factor twice"),
        ]
        none_of(found, mistakes, true, 1e-4)
        assert torch.allclose(found, true, rtol=1e-4, atol=1e-4), (
            "the factor is the ratio of the true to the clipped number; expected "
            f"{show(true[:3])} and so on, got "
            f"{show(found[:3])}"
        )
