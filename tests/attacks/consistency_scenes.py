"""Batches of real images and what their owner would send, for the tests of consistency and peeling."""

from __future__ import annotations

import time

import torch
import torch.nn.functional as F
from torch import nn

import fedpriv
from attacks.exact.consistency import ConsistencyPeeling
from attacks.exact.consistency.approach import approach
from fedpriv import Knowledge
from tests.attacks.scenes import observe, seeded

ACTIVATIONS = {
    "relu": nn.ReLU,
    "leaky relu": nn.LeakyReLU,
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "softplus": nn.Softplus,
}


def digits(n, *, seed=0, dtype=torch.float64):
    """Different handwritten digits and what they show."""
    images, labels = fedpriv.data.digits()
    index = torch.randperm(len(images), generator=seeded(seed))[:n]
    return images[index].to(dtype), labels[index]


def faces(n, *, seed=0, dtype=torch.float64):
    """Faces with made-up labels."""
    images = fedpriv.data.faces()
    index = torch.randperm(len(images), generator=seeded(seed))[:n]
    return images[index].to(dtype), torch.randint(10, (n,), generator=seeded(seed + 1))


def model_for(x, *, width=128, activation=nn.ReLU, seed=0, outputs=10, depth=2):
    sizes = [x[0].numel(), *[width] * depth, outputs]
    return fedpriv.models.mlp(sizes, activation=activation, generator=seeded(seed + 1000)).to(x.dtype)


def seen_of(x, y, *, model=None, loss_fn=F.cross_entropy, knowledge=None, **settings):
    """What the server sees of a batch."""
    model = model or model_for(x, **settings)
    return observe(model, loss_fn, x, y, knowledge or Knowledge(input_shape=tuple(x.shape[1:])))


def claim_of(observation, *, seconds=30.0, seed=0):
    """What the attack claims, before it is graded."""
    return ConsistencyPeeling().run(
        (observation,), generator=seeded(seed), deadline=time.perf_counter() + seconds
    )


def evidence_of(observation):
    way = approach(observation, raw=True)
    assert not isinstance(way, str), way
    return way[1]


def matched(inputs, x):
    """For every true sample the index of the nearest claimed one, and the largest difference to it."""
    flat, found = x.double().flatten(1), inputs.double().flatten(1)
    distances = (flat[:, None] - found[None]).abs().amax(2)
    return distances.argmin(1), distances.amin(1)


def assert_whole(claim, x, y, *, error):
    """Every sample came back once, in any order, with its target."""
    assert claim.inputs.shape == x.shape
    nearest, distance = matched(claim.inputs, x)
    assert float(distance.max()) < error
    assert sorted(nearest.tolist()) == list(range(len(x)))
    if y.is_floating_point():
        assert float((claim.targets[nearest] - y).abs().max()) < error
    else:
        assert torch.equal(claim.targets[nearest], y)
