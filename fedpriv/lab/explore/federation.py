"""The people, their data, the model that they train, and what protects them."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import TypeAlias

import torch
from torch import nn
from torch.nn.functional import cross_entropy

import fedpriv
from fedpriv.defenses import Averaging, Clip, GaussianNoise
from fedpriv.defenses.pipeline import AnyDefense
from fedpriv.lab.explore.choice import Choice, Data, Model
from fedpriv.losses import squared_error
from fedpriv.wire.observation import LossFn

Samples: TypeAlias = tuple[torch.Tensor, torch.Tensor]
"""Inputs (n, *shape) and targets (n, ...)."""

NAMES = ("bob", "alice", "carol", "dave", "erin", "frank", "grace", "heidi")
LEARNING_RATE = 0.1
_PHOTOGRAPHS = 6
_PATCHES = 528
_WIDTH = 128


def draw(choice: Choice, count: int, generator: torch.Generator) -> Samples:
    """`count` random samples of the chosen kind.

    Points have two coordinates in [0, 1] with two digits each, and the target 1 right of the middle, else 0.
    Images lie in [0, 1] with a class: the digit, the number of the person, the photograph that was cut.
    """
    if choice.data is Data.POINTS:
        inputs = (100 * torch.rand(count, 2, generator=generator)).round() / 100
        return inputs, (inputs[:, :1] > 0.5).float()
    images, labels = _images(choice.data)
    chosen = torch.randperm(len(images), generator=generator)[:count]
    return images[chosen], labels[chosen]


def federation(choice: Choice) -> dict[str, Samples]:
    """Everybody's own data, no sample twice; one person is Bob."""
    generator = torch.Generator().manual_seed(choice.seed)
    inputs, targets = draw(choice, choice.people * choice.batch_size, generator)
    parts = zip(inputs.split(choice.batch_size), targets.split(choice.batch_size), strict=True)
    return dict(zip(NAMES, parts, strict=False))


def victim(choice: Choice, generator: torch.Generator) -> nn.Module:
    """The chosen model with fresh weights."""
    shape, outputs = _shape(choice.data), _outputs(choice.data)
    if choice.model is Model.LENET:
        channels, height, width = shape
        return fedpriv.victims.lenet_dlg((channels, height, width), outputs, generator=generator)
    size = int(torch.Size(shape).numel())
    if choice.model is Model.LINEAR and choice.data is Data.POINTS:
        return fedpriv.models.linear(size, outputs, generator=generator)
    hidden = [] if choice.model is Model.LINEAR else [_WIDTH, _WIDTH]
    return fedpriv.models.mlp([size, *hidden, outputs], activation=nn.GELU, generator=generator)


def loss_of(choice: Choice) -> LossFn:
    """Squared error for points, cross-entropy for images."""
    return squared_error if choice.data is Data.POINTS else cross_entropy


def protections(choice: Choice) -> list[AnyDefense]:
    """Clip on every person, then the mean, then noise on the mean; alone, Bob adds the noise himself."""
    found: list[AnyDefense] = []
    if choice.clip_norm is not None:
        found.append(Clip(clip_norm=choice.clip_norm))
    if choice.people > 1:
        found.append(Averaging())
    if choice.clip_norm is not None and choice.noise_multiplier:
        found.append(GaussianNoise(clip_norm=choice.clip_norm, noise_multiplier=choice.noise_multiplier))
    return found


@lru_cache(maxsize=4)
def _images(data: Data) -> Samples:
    """All images of a kind with their classes; read once."""
    make: dict[Data, Callable[[], Samples]] = {
        Data.DIGITS: fedpriv.data.digits,
        Data.FACES: lambda: (fedpriv.data.faces(), torch.arange(100)),
        Data.PHOTOGRAPHS: _patches,
    }
    return make[data]()


def _patches() -> Samples:
    """Patches of 96 × 96 pixels shrunk to 24 × 24; the class is the number of the photograph."""
    patches = fedpriv.data.photographs(_PATCHES, size=96)
    return torch.nn.functional.avg_pool2d(patches, 4), torch.arange(_PATCHES) % _PHOTOGRAPHS


def _shape(data: Data) -> tuple[int, ...]:
    return {
        Data.POINTS: (2,),
        Data.DIGITS: (1, 8, 8),
        Data.FACES: (1, 25, 25),
        Data.PHOTOGRAPHS: (3, 24, 24),
    }[data]


def _outputs(data: Data) -> int:
    return {Data.POINTS: 1, Data.DIGITS: 10, Data.FACES: 100, Data.PHOTOGRAPHS: _PHOTOGRAPHS}[data]
