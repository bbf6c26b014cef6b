"""Checks of the exercise `batch`."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

import fedpriv

SIZE = 6


@pytest.fixture
def seen(generator):
    images, labels = fedpriv.data.digits()
    chosen = torch.randperm(len(images), generator=generator)
    x, strangers = (
        images[chosen[:SIZE]].flatten(1).double(),
        images[chosen[SIZE : SIZE + 3]].flatten(1).double(),
    )
    model = fedpriv.models.mlp([64, 48, 48, 10], generator=generator).double()
    loss = F.cross_entropy(model(x), labels[chosen[:SIZE]])
    gradient = torch.autograd.grad(loss, list(model.parameters()))
    return x, strangers, lambda z: model[1:3](z).detach(), gradient[0], gradient[2]


def test_batch_size(answer, seen):
    _, _, _, g1, _ = seen
    found = answer.batch_size(g1)
    assert found <= SIZE, (
        f"got {found}, too many: rounding is not rank, compare singular values with the largest"
    )
    assert found == SIZE, f"the batch has {SIZE} samples, got {found}"


def test_distance(answer, seen):
    x, strangers, _, g1, _ = seen
    found = answer.distance(torch.cat([x, 100 * x[:1], strangers]), g1, SIZE)
    assert found.shape == (SIZE + 4,), f"expected one number for each vector, got shape {tuple(found.shape)}"
    assert bool((found[:SIZE] < 1e-6).all()), (
        "samples are in the row space of G, but your distance is not zero there"
    )
    assert bool((found[-3:] > 0.05).all()), (
        "strangers are outside, but your distance is small: is the rank used?"
    )
    basis = torch.linalg.svd(g1).Vh[:SIZE]
    exact = (strangers - strangers @ basis.T @ basis).norm(dim=1)
    assert not torch.allclose(found[-3:], exact, rtol=1e-4), (
        "divide by the length of the vector: 0 to 1, not pixels"
    )
    assert torch.allclose(found[-3:], exact / strangers.norm(dim=1), rtol=1e-4), (
        "strangers have another distance"
    )


def test_true_samples(answer, seen):
    x, strangers, hidden, g1, g2 = seen
    mixtures = (x[:3] + x[3:6]) / 2
    found = answer.true_samples(torch.cat([x, mixtures, strangers]), hidden, g1, g2)
    assert bool(found[:SIZE].all()), "some samples of the batch are called false"
    assert not bool(found[-3:].any()), "some strangers are called true: test the first layer's space"
    assert not bool(found[SIZE:-3].any()), "mixtures are called true: test their hidden vectors as well"
