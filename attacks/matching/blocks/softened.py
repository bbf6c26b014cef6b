"""Kinks made smooth: ReLU becomes softplus and max pooling a softmax average, of a sharpness that can grow.

The gradient of a ReLU network jumps where an activation changes its sign, and a search that follows slopes
sees nothing of the jumps. In the softened model they are ramps. The sharpness is relative: it is divided by
the standard deviation of what the layer gets to see, so that all layers are equally soft.
"""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_OUTSIDE = -1e4  # padding of a pooling window, in standard deviations


class Sharpness:
    """How sharp the softened layers are now; infinity: exactly as in the model that was sent."""

    def __init__(self, value: float = float("inf")) -> None:
        self.value = value

    @property
    def exact(self) -> bool:
        """Whether nothing is softened."""
        return self.value == float("inf")

    def relative_to(self, z: Tensor) -> float:
        """The sharpness in units of `z`."""
        return self.value / max(float(z.detach().std()), 1e-12)


class SoftReLU(nn.Module):
    """``log(1 + exp(s z)) / s``."""

    def __init__(self, sharpness: Sharpness) -> None:
        super().__init__()
        self.sharpness = sharpness

    def forward(self, z: Tensor) -> Tensor:
        """Evaluate at `z` of any shape."""
        if self.sharpness.exact:
            return F.relu(z)
        return F.softplus(z, self.sharpness.relative_to(z))


class SoftMaxPool2d(nn.Module):
    """The average over each window with weights ``softmax(s z)``."""

    def __init__(self, sharpness: Sharpness, pool: nn.MaxPool2d) -> None:
        super().__init__()
        self.sharpness = sharpness
        self.pool = pool

    def forward(self, z: Tensor) -> Tensor:
        """Pool (n, c, H, W)."""
        if self.sharpness.exact:
            pooled: Tensor = self.pool(z)
            return pooled
        sharpness = self.sharpness.relative_to(z)
        windows = windows_of(z, self.pool, fill=_OUTSIDE / sharpness)
        return (torch.softmax(sharpness * windows, dim=-1) * windows).sum(-1)


def windows_of(z: Tensor, pool: nn.MaxPool2d, *, fill: float) -> Tensor:
    """The values in every pooling window: (n, c, H, W) to (n, c, h, w, kernel entries).

    Examples
    --------
    >>> windows_of(torch.arange(6.0).reshape(1, 1, 2, 3), nn.MaxPool2d(2, 1), fill=0.0)[0, 0, 0]
    tensor([[0., 1., 3., 4.],
            [1., 2., 4., 5.]])
    """
    kernel, stride, padding = (_pair(v) for v in (pool.kernel_size, pool.stride, pool.padding))
    z = F.pad(z, (padding[1], padding[1], padding[0], padding[0]), value=fill)
    return z.unfold(2, kernel[0], stride[0]).unfold(3, kernel[1], stride[1]).flatten(4)


def why_not_soft(module: nn.Module) -> str | None:
    """Why a pooling layer is left as it is, or None."""
    if isinstance(module, nn.MaxPool2d):
        if module.ceil_mode or module.return_indices or _pair(module.dilation) != (1, 1):
            return "ceil_mode, dilation and return_indices are not softened"
        return None
    return "is no MaxPool2d"


def softened(model: nn.Module) -> tuple[nn.Module, Sharpness]:
    """A copy of `model` whose ReLU and MaxPool2d modules follow the `Sharpness` that is returned with it.

    Kinks inside a ``forward`` method (``F.relu``) stay as they are.

    Examples
    --------
    >>> soft, sharpness = softened(nn.Sequential(nn.ReLU()))
    >>> sharpness.value = 2.0
    >>> bool(soft(torch.tensor([-1.0, 1.0])).min() > 0)
    True
    >>> sharpness.value = float("inf")
    >>> soft(torch.tensor([-1.0, 1.0]))
    tensor([0., 1.])
    """
    sharpness = Sharpness()
    return _replaced(copy.deepcopy(model), sharpness), sharpness


def _replaced(module: nn.Module, sharpness: Sharpness) -> nn.Module:
    if isinstance(module, nn.ReLU):
        return SoftReLU(sharpness)
    if isinstance(module, nn.MaxPool2d) and why_not_soft(module) is None:
        return SoftMaxPool2d(sharpness, module)
    for name, child in module.named_children():
        setattr(module, name, _replaced(child, sharpness))
    return module


def _pair(value: int | tuple[int, ...]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[1])
