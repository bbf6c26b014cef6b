"""Photographs, small networks and their gradients, for the tests of blockwise inversion."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

import fedpriv
from fedpriv.data import photographs
from fedpriv.victims import conv_small
from tests.attacks.scenes import seeded

MEAN = torch.tensor([0.4914, 0.4822, 0.4465]).reshape(3, 1, 1)
DEVIATION = torch.tensor([0.2470, 0.2435, 0.2616]).reshape(3, 1, 1)


def patches(count, seed, size=24):
    """Textured patches: a quarter of the pixels, so that there is something to see at this size."""
    large = photographs(4 * count, size=4 * size, generator=seeded(seed))
    small = F.avg_pool2d(large, 4)
    small = small[small.std(dim=(1, 2, 3)) > 0.1][:count]
    return (small - MEAN) / DEVIATION


def observe(model, x, y, **known):
    gradient = torch.autograd.grad(F.cross_entropy(model(x), y), list(model.parameters()))
    knowledge = fedpriv.Knowledge(input_shape=tuple(x.shape[1:]), **known)
    return fedpriv.Observation(model, gradient, F.cross_entropy, knowledge)


def small_network(seed, channels=3, width=12):
    return conv_small((channels, 24, 24), width=width, generator=seeded(seed))


def pooled_network(seed, width=32, channels=3):
    """Two convolutions, max pooling, and the ending that patch peeling needs; for 16 x 16 pixels."""
    layers = [
        *(nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(width, 2 * width, 3, stride=2, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(2 * width, 2 * width, 3, stride=2, padding=1), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2 * width, 10)),
    ]
    return fedpriv.models.initialize(nn.Sequential(*layers), seeded(seed))


def strided_network(seed, width=32, channels=3):
    """The same with a stride in place of the pooling."""
    layers = [
        *(nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(width, 2 * width, 4, stride=4), nn.ReLU()),
        *(nn.Conv2d(2 * width, 2 * width, 3, stride=2, padding=1), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2 * width, 10)),
    ]
    return fedpriv.models.initialize(nn.Sequential(*layers), seeded(seed))
