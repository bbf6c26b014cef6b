"""Lesson 5: match a gradient, and judge the result without the truth.

Gradients are lists of tensors, one for each parameter.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def cosine_distance(candidate: Sequence[Tensor], observed: Sequence[Tensor]) -> Tensor:
    """One minus the cosine of the angle between two gradients.

    Returns
    -------
    Tensor
        One number from 0 (same direction) to 2, differentiable in `candidate`.

    Hint: all parameters together form one vector: the inner product is a sum over all tensors, and so are the
    squared lengths. (Geiping et al., 2020, equation 4.)
    """
    raise NotImplementedError


def total_variation(images: Tensor) -> Tensor:
    """How much neighboring pixels differ: a prior for pictures.

    Parameters
    ----------
    images : Tensor of shape (n, channels, height, width)

    Returns
    -------
    Tensor of shape (n,)
        Mean absolute difference of vertical neighbors plus that of horizontal neighbors.

    Hint: images[..., 1:, :] - images[..., :-1, :] are the vertical differences.
    """
    raise NotImplementedError


def choose(candidates: Tensor, residuals: Tensor) -> Tensor:
    """The result of several starts, as the attacker must choose it.

    Parameters
    ----------
    candidates : Tensor of shape (starts, *shape)
    residuals : Tensor of shape (starts,)
        Some starts may have diverged: their residual is NaN.

    Returns
    -------
    Tensor of shape (*shape)

    Hint: she has no truth; and NaN is neither small nor large.
    """
    raise NotImplementedError
