"""What the benchmark of block by block attacks: pictures, networks, gradients; and how answers are graded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import torch
from sklearn.datasets import load_sample_image
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, cross_entropy

import fedpriv

CIFAR = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
"""Mean and deviation of the channels, by which pixels are normalized."""
TEXTURE = 0.05
"""Patches with less deviation are left out: flat ones say nothing."""


class Found(Protocol):
    """What an attack returns, ours or a peer's."""

    @property
    def inputs(self) -> Tensor:
        """The samples."""

    @property
    def targets(self) -> Tensor | None:
        """Their labels."""


class Scene(NamedTuple):
    """One gradient, and what the attacker is to find."""

    observation: fedpriv.Observation
    pixels: Tensor
    labels: Tensor
    scale: tuple[Sequence[float], Sequence[float]]

    def told(self) -> fedpriv.Observation:
        """The same evidence, with the number of images."""
        seen, shape = self.observation, tuple(self.pixels.shape[1:])
        known = fedpriv.Knowledge(num_samples=len(self.pixels), input_shape=shape)
        return fedpriv.Observation(seen.model, seen.update, seen.loss_fn, known)

    def graded(self, found: Found) -> dict[str, Any]:
        """Decibels of every image, in the order of the truth, and whether all labels are right."""
        mean, deviation = map(channels, self.scale)
        shown = found.inputs.detach().double() * deviation + mean
        score = fedpriv.lab.score(shown, self.pixels.double(), data_range=1.0)
        targets = found.targets
        counted = targets is not None and targets.dim() == 1
        right = counted and torch.equal(targets.sort().values, self.labels.sort().values)  # type: ignore[union-attr]
        return {"psnr": score.psnr.tolist(), "labels_right": bool(right)}


def scene(
    model: nn.Module, pixels: Tensor, labels: Tensor, scale: tuple[Sequence[float], Sequence[float]]
) -> Scene:
    """The gradient of the mean cross-entropy; the server knows the shape of an image, not how many."""
    mean, deviation = map(channels, scale)
    loss = cross_entropy(model((pixels - mean) / deviation), labels)
    gradient = torch.autograd.grad(loss, list(model.parameters()))
    known = fedpriv.Knowledge(input_shape=tuple(pixels.shape[1:]))
    return Scene(fedpriv.Observation(model, gradient, cross_entropy, known), pixels, labels, scale)


def small_patches(count: int, seed: int, size: int = 32) -> Tensor:
    """Color patches of two photographs of a quarter of their width and height: much to see in few pixels."""
    draw = torch.Generator().manual_seed(seed)
    files = [torch.tensor(load_sample_image(name)) for name in ("china.jpg", "flower.jpg")]
    images = [avg_pool2d(file.permute(2, 0, 1)[None] / 255, 4)[0] for file in files]
    found: list[Tensor] = []
    turn = 0
    while len(found) < count:
        image = images[turn % 2]
        top, left = (int(torch.randint(extent - size + 1, (), generator=draw)) for extent in image.shape[1:])
        patch = image[:, top : top + size, left : left + size]
        found += [patch] if patch.std() > TEXTURE else []
        turn += 1
    return torch.stack(found)


def channels(values: Sequence[float]) -> Tensor:
    """One number a channel, as images take it."""
    return torch.tensor(values).reshape(-1, 1, 1)


def strided(generator: torch.Generator) -> nn.Module:
    """ConvNetSmall with a strided convolution in place of the pooling."""
    layers = [
        *(nn.Conv2d(3, 32, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(32, 64, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(64, 128, 3, stride=2, padding=1), nn.ReLU()),
        *(nn.Conv2d(128, 128, 3, stride=3), nn.ReLU()),
        *(nn.Conv2d(128, 128, 3, stride=2, padding=1), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, 10)),
    ]
    return fedpriv.models.initialize(nn.Sequential(*layers), generator)


def lenet5(generator: torch.Generator) -> nn.Module:
    """The LeNet-5 of textbooks, for color images."""
    layers = [
        *(nn.Conv2d(3, 6, 5), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()),
        *(nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10)),
    ]
    return fedpriv.models.initialize(nn.Sequential(*layers), generator)


def two_convolutions(generator: torch.Generator) -> nn.Module:
    """24 and 48 channels of 5 x 5, a stride, max pooling, three linear layers, for gray faces."""
    layers = [
        *(nn.Conv2d(1, 24, 5, padding=2), nn.ReLU()),
        *(nn.Conv2d(24, 48, 5, stride=2, padding=2), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()),
        *(nn.Linear(48 * 36, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10)),
    ]
    return fedpriv.models.initialize(nn.Sequential(*layers), generator)
