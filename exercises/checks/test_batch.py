"""Checks of the exercise `batch`."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from expecting import integer, none_of, tensor, truths

import fedpriv

SIZE = 6


@pytest.fixture
def see(generator):
    images, labels = fedpriv.data.digits()
    chosen = torch.randperm(len(images), generator=generator)
    x = images[chosen[: SIZE + 3]].flatten(1).double()
    model = fedpriv.models.mlp([64, 48, 48, 10], generator=generator).double()

    def look(size=SIZE):
        loss = F.cross_entropy(model(x[:size]), labels[chosen[:size]])
        gradient = torch.autograd.grad(loss, list(model.parameters()))
        return x[:SIZE], x[SIZE:], model, gradient[0], gradient[2]

    return look


def test_batch_size(answer, see):
    for size in (SIZE, 4, 1):
        g1 = see(size)[3]
        found = integer(answer.batch_size(g1))
        assert found <= size, (
            f"got {found}, too many for {size} sample{'s' * (size > 1)}: rounding is not rank, "
            "compare singular "
            "values with the largest"
        )
        assert found == size, f"the batch has {size} samples, got {found}: count the singular values"
        for factor in (1e-10, 1e10):
            found = integer(answer.batch_size(factor * g1))
            assert found == size, (
                f"{size}, but {found} when all entries are {factor:g} times as large: compare "
                "singular values with "
                "the largest, not with a fixed number"
            )


def test_distance(answer, see):
    x, strangers, _, g1, _ = see()
    found = tensor(answer.distance(torch.cat([x, 100 * x[:1], strangers]), g1, SIZE), (SIZE + 4,))
    assert found.isfinite().all(), "got NaN: the root of a number that rounding made negative? clamp(min=0)"
    long, vh = strangers.norm(dim=1), torch.linalg.svd(g1).Vh

    def outside(rows):
        return (strangers - strangers @ rows.T @ rows).norm(dim=1)

    exact, inside = outside(vh[:SIZE]), (strangers @ vh[:SIZE].T).norm(dim=1)
    mistakes = [
        (exact, "divide by the length of the vector: 0 to 1, not pixels"),
        ((exact / long) ** 2, "this is the square of the distance: take the root"),
        (
            exact**2,
            "this is the square of the distance: take the root, and divide by the length of the vector",
        ),
        (inside, "this is the length of the projection: subtract the projection, what is left counts"),
        (inside / long, "this is the length of the projection: subtract the projection, what is left counts"),
        (outside(vh[:48]) / long, "strangers are outside, but your distance is small: is the rank used?"),
        (outside(vh) / long, "strangers are outside, but your distance is small: is the rank used?"),
        (outside(vh[:, :SIZE].T) / long, "the basis is in ROWS of Vh, Vh[:rank]; you took columns"),
        (outside(vh[-SIZE:]) / long, "the FIRST rows of Vh span the space, Vh[:rank]"),
    ]
    none_of(found[-3:], mistakes, exact / long)
    assert bool((found[:SIZE].abs() < 1e-6).all()), (
        "samples are in the row space of G, but your distance is not zero there: subtract the projection"
    )
    assert torch.allclose(found[-3:], exact / long, rtol=1e-4), (
        "samples are right, strangers have another distance: what is left after the projection, "
        "divided by the "
        "vector's own length"
    )
    assert float(found[SIZE]) < 1e-6, "a sample times 100 is in the space: divide by the vector's own length"


def test_true_samples(answer, see, generator):
    x, strangers, model, g1, g2 = see()
    beside = torch.linalg.svd(model[1].weight.detach()).Vh[
        -1
    ]  # a direction that the first layer does not see
    groups = [
        (x, True, "some samples of the batch are called false"),
        (strangers, False, "some strangers are called true: test the first layer's space"),
        ((x[:3] + x[3:6]) / 2, False, "mixtures are called true: test their hidden vectors as well"),
        (
            x[:2] + x.norm(dim=1).mean() * beside,
            False,
            "what has a sample's hidden vector and other pixels is called true: test the first "
            "layer's space, too",
        ),
    ]
    kind = torch.cat([torch.full((len(g),), k) for k, (g, _, _) in enumerate(groups)])
    order = torch.randperm(len(kind), generator=generator)
    candidates = torch.cat([group for group, _, _ in groups])[order]
    found = answer.true_samples(candidates, lambda z: model[1:3](z).detach(), g1, g2)
    found = truths(found, (len(kind),), "candidate")
    for k, (_, right, sentence) in enumerate(groups):
        assert bool((found[kind[order] == k] == right).all()), sentence
