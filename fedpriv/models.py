"""The victims: small models. A `torch.Generator` draws their weights, so that a seed gives the same ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TypeVar

import torch
from torch import nn

__all__ = ["initialize", "linear", "mlp"]

Module = TypeVar("Module", bound=nn.Module)


def linear(num_features: int, num_outputs: int = 1, *, generator: torch.Generator | None = None) -> nn.Linear:
    """The tutorial's model: one linear layer with bias.

    Examples
    --------
    >>> linear(2).weight.shape
    torch.Size([1, 2])
    """
    return initialize(nn.Linear(num_features, num_outputs), generator)


def mlp(
    sizes: Sequence[int],
    *,
    activation: Callable[[], nn.Module] = nn.ReLU,
    generator: torch.Generator | None = None,
) -> nn.Sequential:
    """A multilayer perceptron that flattens its input first.

    Parameters
    ----------
    sizes : sequence of int
        Widths from the input to the output, at least two.
    activation : callable, default nn.ReLU
        Makes the module between two linear layers.
    generator : torch.Generator, optional
        Draws the weights; seed 0 if not given.

    Examples
    --------
    >>> mlp([64, 32, 10])(torch.zeros(5, 1, 8, 8)).shape
    torch.Size([5, 10])
    """
    if len(sizes) < 2:
        raise ValueError(f"sizes must name at least input and output width, got {list(sizes)}")
    layers: list[nn.Module] = [nn.Flatten()]
    for index, (width_in, width_out) in enumerate(pairwise(sizes)):
        layers += [activation()] * (index > 0) + [nn.Linear(width_in, width_out)]
    return initialize(nn.Sequential(*layers), generator)


def initialize(model: Module, generator: torch.Generator | None = None) -> Module:
    """Draw linear layers and convolutions from PyTorch's default, U(±1/sqrt(fan_in)), in place.

    PyTorch's own initializers take no generator in all supported versions. Returns `model`.
    """
    generator = generator or torch.Generator().manual_seed(0)
    with torch.no_grad():
        for layer in model.modules():
            if isinstance(layer, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d):
                bound = layer.weight[0].numel() ** -0.5
                for parameter in layer.parameters():
                    parameter.uniform_(-bound, bound, generator=generator)
    return model
