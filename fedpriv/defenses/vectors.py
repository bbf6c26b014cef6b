"""An update seen as one long vector in named pieces."""

from __future__ import annotations

import math

import torch

from fedpriv.wire import Tensors


def detached_copy(update: Tensors) -> dict[str, torch.Tensor]:
    """Copies without gradient history and without shared memory."""
    return {name: tensor.detach().clone() for name, tensor in update.items()}


def num_coordinates(update: Tensors) -> int:
    """How many numbers the update holds."""
    return sum(tensor.numel() for tensor in update.values())


def joint_norm(update: Tensors) -> float:
    """L2 norm over all tensors jointly, scalars included.

    Computed in float64 after division by the largest entry, so that the squares of float16 updates and of
    very large ones neither overflow nor vanish.

    Examples
    --------
    >>> joint_norm({"weight": torch.tensor([3.0, 0.0]), "bias": torch.tensor(4.0)})
    5.0
    """
    largest = max((float(t.detach().abs().max()) for t in update.values() if t.numel()), default=0.0)
    if largest == 0.0:
        return 0.0
    squares = sum(float((t.detach().double() / largest).square().sum()) for t in update.values())
    return largest * math.sqrt(squares)


def scaled(update: Tensors, factor: float) -> dict[str, torch.Tensor]:
    """``factor * update`` in float64, whatever the dtype of `update`."""
    return {name: tensor.double() * factor for name, tensor in update.items()}


def cast_like(values: Tensors, like: Tensors) -> dict[str, torch.Tensor]:
    """`values` in the dtypes of `like`."""
    return {name: tensor.to(like[name].dtype) for name, tensor in values.items()}
