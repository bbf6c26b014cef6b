"""More victims: small convolutional networks, with weights drawn by a `torch.Generator`."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from fedpriv.models import initialize

__all__ = ["Residual", "conv_small", "lenet_dlg", "resnet18", "vgg_small"]


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
    return initialize(model, generator)


class Residual(nn.Module):
    """Two 3 × 3 convolutions with batch norm, added to their input; ReLU after the sum."""

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *_normalized(channels_in, channels, 3, stride),
            nn.ReLU(),
            *_normalized(channels, channels, 3, 1),
        )
        same = stride == 1 and channels_in == channels
        self.shortcut = (
            nn.Identity() if same else nn.Sequential(*_normalized(channels_in, channels, 1, stride))
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (n, channels_in, height, width) to (n, channels, height / stride, width / stride)."""
        return torch.relu(self.body(x) + self.shortcut(x))


def resnet18(
    input_shape: tuple[int, int, int] = (3, 32, 32),
    num_classes: int = 10,
    *,
    width: int = 64,
    generator: torch.Generator | None = None,
) -> nn.Sequential:
    """ResNet-18 for small images: the first convolution is 3 × 3 without stride, and no pooling follows it.

    It comes in evaluation mode, with the statistics of batch norm at their initial values.

    Parameters
    ----------
    input_shape : tuple of int
        Channels, height and width.
    num_classes : int, default 10
    width : int, default 64
        Channels of the first stage; the others have two, four and eight times as many.
    generator : torch.Generator, optional
        Draws the weights; seed 0 if not given.

    References
    ----------
    K. He, X. Zhang, S. Ren, J. Sun, "Deep Residual Learning for Image Recognition", CVPR 2016, sections 4.1
    and 4.2, https://arxiv.org/abs/1512.03385.

    Examples
    --------
    >>> model = resnet18(width=8)
    >>> model(torch.zeros(2, 3, 32, 32)).shape, sum(isinstance(m, nn.Conv2d) for m in model.modules())
    (torch.Size([2, 10]), 20)
    """
    stages: list[nn.Module] = []
    before = width
    for index in range(4):
        channels = width * 2**index
        stages += [Residual(before, channels, 1 if index == 0 else 2), Residual(channels, channels, 1)]
        before = channels
    model = nn.Sequential(
        *(*_normalized(input_shape[0], width, 3, 1), nn.ReLU()),
        *stages,
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, num_classes)),
    )
    return initialize(model, generator).eval()


def vgg_small(
    input_shape: tuple[int, int, int] = (3, 32, 32),
    num_classes: int = 10,
    *,
    width: int = 32,
    generator: torch.Generator | None = None,
) -> nn.Sequential:
    """A small VGG: three pairs of 3 × 3 convolutions with max pooling, and a head of three linear layers.

    Parameters are those of `resnet18`.

    References
    ----------
    K. Simonyan, A. Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition",
    ICLR 2015, https://arxiv.org/abs/1409.1556.

    Examples
    --------
    >>> vgg_small()(torch.zeros(2, 3, 32, 32)).shape
    torch.Size([2, 10])
    """
    body: list[nn.Module] = []
    before = input_shape[0]
    for channels in (width, 2 * width, 4 * width):
        body += [nn.Conv2d(before, channels, 3, padding=1), nn.ReLU()]
        body += [nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
        before = channels
    features = nn.Sequential(*body, nn.Flatten())
    head = [nn.Linear(_width(features, input_shape), 256), nn.ReLU(), nn.Linear(256, 128), nn.ReLU()]
    return initialize(nn.Sequential(*features, *head, nn.Linear(128, num_classes)), generator)


def _normalized(channels_in: int, channels: int, kernel: int, stride: int) -> tuple[nn.Module, nn.Module]:
    """A convolution without bias that keeps the size up to its stride, and batch norm."""
    convolution = nn.Conv2d(channels_in, channels, kernel, stride, padding=kernel // 2, bias=False)
    return convolution, nn.BatchNorm2d(channels)


def _width(body: nn.Sequential, input_shape: tuple[int, ...]) -> int:
    """How many values `body` returns for one sample."""
    with torch.no_grad():
        return int(body(torch.zeros(1, *input_shape)).shape[1])
