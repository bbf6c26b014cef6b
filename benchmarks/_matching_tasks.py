"""The victims of the benchmark of inversion by optimization, their images, and who attacks them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, interpolate

import attacks
import fedpriv
from attacks.matching.priors import Box
from fedpriv.victims import lenet_dlg, resnet18

CIFAR = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
MNIST = (0.1307,), (0.3081,)
INK = Box(low=-MNIST[0][0] / MNIST[1][0], high=(1 - MNIST[0][0]) / MNIST[1][0])
"""Valid pixels once normalized; breaching projects onto the same."""
NO_TV: Mapping[str, object] = {"regularization.total_variation.scale": 0}


@dataclass(frozen=True, kw_only=True)
class Task:
    """One kind of victim and data, who attacks it, and how breaching does.

    Parameters
    ----------
    model : callable
        From a generator to the network.
    batch : int
    digits : bool
        Handwritten digits, enlarged to 28 × 28 pixels; else 32 × 32 patches of photographs.
    scale : tuple of tuple of float
        Mean and deviation of the channels, by which pixels are normalized.
    ours : mapping of str to Attack
    peer : str or None
        What breaching calls its attack; None where it is not measured.
    changes : mapping of str to object
        Settings of breaching.
    """

    model: Callable[[torch.Generator], nn.Module]
    batch: int = 1
    digits: bool = False
    scale: tuple[tuple[float, ...], tuple[float, ...]] = ((0.0,), (1.0,))
    ours: Mapping[str, attacks.Attack]
    peer: str | None = None
    changes: Mapping[str, object] = field(default_factory=dict)

    def observe(self, seed: int) -> tuple[fedpriv.Observation, Tensor, Tensor]:
        """One gradient, and the batch behind it."""
        generator = torch.Generator().manual_seed(seed)
        if self.digits:
            images, labels = fedpriv.data.digits()
            chosen = torch.randperm(len(images), generator=generator)[: self.batch]
            pixels, y = interpolate(images[chosen], size=28, mode="bilinear"), labels[chosen]
        else:
            pixels = fedpriv.data.photographs(8 * self.batch, size=32, generator=generator)
            pixels = pixels[pixels.std(dim=(1, 2, 3)) > 0.05][: self.batch]  # flat ones say nothing
            y = torch.randint(10, (self.batch,), generator=generator)
        x = (pixels - _channels(self.scale[0])) / _channels(self.scale[1])
        model = self.model(generator)
        known = fedpriv.Knowledge(input_shape=tuple(x.shape[1:]), num_samples=self.batch)
        gradient = torch.autograd.grad(cross_entropy(model(x), y), list(model.parameters()))
        return fedpriv.Observation(model, gradient, cross_entropy, known), x, y

    def pixels(self, x: Tensor) -> Tensor:
        """Back from normalized to [0, 1], for measuring."""
        return x.detach().double() * _channels(self.scale[1]) + _channels(self.scale[0])

    def graded(self, inputs: Tensor, targets: Tensor | None, x: Tensor, y: Tensor) -> dict[str, Any]:
        """Mean decibels over the batch, the worst image, the share of right labels in any order."""
        score = fedpriv.lab.score(self.pixels(inputs), self.pixels(x), data_range=1.0)
        counts = [torch.bincount(t, minlength=10) for t in (targets, y) if t is not None and t.dim() == 1]
        right = float(torch.minimum(*counts).sum()) / len(y) if len(counts) == 2 else 0.0
        return {
            "psnr": float(score.psnr.mean()),
            "worst_psnr": float(score.psnr.min()),
            "labels_share": right,
        }


def _channels(values: Sequence[float]) -> Tensor:
    return torch.tensor(values).reshape(-1, 1, 1)


def _digits(*, finish: bool) -> attacks.InvertingGradients:
    return attacks.InvertingGradients(
        starts=1, steps=600, rate=0.3, smoothness=0.0, scale=0.1, box=INK, finish=finish
    )


def _batch(count: int) -> Task:
    return Task(
        model=lambda g: fedpriv.models.mlp([784, 512, 512, 10], generator=g),
        batch=count,
        digits=True,
        scale=MNIST,
        ours={"inverting gradients": _digits(finish=True), "the search alone": _digits(finish=False)},
        peer="invertinggradients",
        changes={**NO_TV, "optim.max_iterations": 1000, "optim.callback": 1000},
    )


TASKS = {
    "A digit": Task(
        model=lambda g: lenet_dlg((1, 28, 28), generator=g),
        digits=True,
        ours={"iDLG": attacks.IDLG(), "DLG": attacks.DLG()},
    ),
    "A color": Task(
        model=lambda g: lenet_dlg((3, 32, 32), generator=g),
        scale=((0.0,) * 3, (1.0,) * 3),
        ours={"iDLG": attacks.IDLG()},
    ),
    **{f"C {count}": _batch(count) for count in (8, 16, 20)},
}
RESNET = Task(model=lambda g: resnet18(generator=g), scale=CIFAR, ours={})
