"""More victims: small convolutional networks, with weights drawn by a `torch.Generator`."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn


def lenet_dlg(
    input_shape: tuple[int, int, int] = (1, 28, 28),
    num_classes: int = 10,
    *,
    activation: Callable[[], nn.Module] = nn.Sigmoid,
    generator: torch.Generator | None = None,
) -> nn.Sequential:
    """The LeNet of the paper that made gradient leakage known; weights uniform in ±0.5, as there.

    Three 5 × 5 convolutions of 12 channels, strides 2, 2 and 1, and one linear layer.

    Parameters
    ----------
    input_shape : tuple of int
        Channels, height and width.
    num_classes : int, default 10
    activation : callable, default nn.Sigmoid
    generator : torch.Generator, optional
        Draws the weights; seed 0 if not given.

    References
    ----------
    L. Zhu, Z. Liu, S. Han, "Deep Leakage from Gradients", NeurIPS 2019, https://arxiv.org/abs/1906.08935.

    Examples
    --------
    >>> lenet_dlg()(torch.zeros(1, 1, 28, 28)).shape
    torch.Size([1, 10])
    """
    channels = input_shape[0]
    body = nn.Sequential(
        *(nn.Conv2d(channels, 12, 5, stride=2, padding=2), activation()),
        *(nn.Conv2d(12, 12, 5, stride=2, padding=2), activation()),
        *(nn.Conv2d(12, 12, 5, stride=1, padding=2), activation()),
        nn.Flatten(),
    )
    model = nn.Sequential(*body, nn.Linear(_width(body, input_shape), num_classes))
    generator = generator or torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.uniform_(-0.5, 0.5, generator=generator)
    return model


def conv_small(
    input_shape: tuple[int, int, int] = (3, 32, 32),
    num_classes: int = 10,
    *,
    width: int = 32,
    generator: torch.Generator | None = None,
) -> nn.Sequential:
    """Four ReLU convolutions, one max pooling, a global average pool and a linear layer ("ConvNetSmall").

    Parameters
    ----------
    input_shape : tuple of int
        Channels, height and width.
    num_classes : int, default 10
    width : int, default 32
        Channels of the first convolution; the others have two, four and four times as many.
    generator : torch.Generator, optional
        Draws the weights, PyTorch's default distribution; seed 0 if not given.

    Examples
    --------
    >>> conv_small()(torch.zeros(2, 3, 32, 32)).shape
    torch.Size([2, 10])
    """
    model = nn.Sequential(
        *(nn.Conv2d(input_shape[0], width, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(width, 2 * width, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(2 * width, 4 * width, 3, stride=2, padding=1), nn.ReLU(), nn.MaxPool2d(3)),
        *(nn.Conv2d(4 * width, 4 * width, 3, stride=2, padding=1), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4 * width, num_classes)),
    )
    generator = generator or torch.Generator().manual_seed(0)
    with torch.no_grad():
        for layer in model:
            if isinstance(layer, nn.Conv2d | nn.Linear):
                bound = layer.weight[0].numel() ** -0.5
                for parameter in layer.parameters():
                    parameter.uniform_(-bound, bound, generator=generator)
    return model


def _width(body: nn.Sequential, input_shape: tuple[int, ...]) -> int:
    """How many values `body` returns for one sample."""
    with torch.no_grad():
        return int(body(torch.zeros(1, *input_shape)).shape[1])
