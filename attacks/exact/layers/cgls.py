"""Least squares by conjugate gradients, from a map and its transpose alone (Hestenes and Stiefel 1952)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from attacks.exact.layers.precondition import Preconditioner

_PATIENCE = 100


def conjugate_gradients(
    apply: Callable[[Tensor], list[Tensor]],
    transpose: Callable[[list[Tensor]], Tensor],
    sides: list[Tensor],
    *,
    precondition: Preconditioner,
    stop: float,
    max_steps: int,
) -> tuple[Tensor, int]:
    """CGLS for k right-hand sides at once; a column that no longer improves is left alone.

    Parameters
    ----------
    apply : callable
        From k unknowns, Tensor of shape (k, ...), to blocks of equations, each of shape (k, rows).
    transpose : callable
        Its transpose.
    sides : list of Tensor of shape (k, rows)
    precondition : callable
        Applied to the gradient of the squared error; symmetric and positive.
    stop : float
        The square of the preconditioned gradient, relative to that at zero, at which a column is done.
    max_steps : int

    Returns
    -------
    x : Tensor of shape (k, ...)
    steps : int

    Examples
    --------
    >>> a = torch.tensor([[2.0, 0.0], [1.0, 1.0], [0.0, 3.0]])
    >>> x, steps = conjugate_gradients(
    ...     lambda x: [x @ a.T], lambda v: v[0] @ a, [torch.tensor([[2.0, 3.0, 6.0]])],
    ...     precondition=lambda x: x, stop=1e-12, max_steps=10)
    >>> x.round(decimals=3), steps
    (tensor([[1., 2.]]), 2)
    """
    residual = [s.clone() for s in sides]
    slope = transpose(residual)
    direction = precondition(slope)
    x, power = torch.zeros_like(slope), _dots(slope, direction)
    start, milestone, waited = power.clone(), power.clone(), 0
    steps = 0
    while steps < max_steps and waited < _PATIENCE and bool((power > stop * start).any()):
        steps += 1
        image = apply(direction)
        curvature = sum(_dots(i, i) for i in image)
        active = (power > stop * start) & (curvature > 0)
        length = torch.where(active, power / curvature, torch.zeros_like(power))
        x = x + _column(length, x) * direction
        residual = [r - length[:, None] * i for r, i in zip(residual, image, strict=True)]
        slope = transpose(residual)
        steepest = precondition(slope)
        previous, power = power, torch.where(active, _dots(slope, steepest), power)
        direction = steepest + _column(power / previous.clamp_min(1e-300), x) * direction
        better = active & (power < 0.5 * milestone)
        milestone = torch.where(better, power, milestone)
        waited = 0 if bool(better.any()) else waited + 1
    return x, steps


def _dots(x: Tensor, y: Tensor) -> Tensor:
    return (x * y).flatten(1).sum(dim=1)


def _column(numbers: Tensor, like: Tensor) -> Tensor:
    return numbers.reshape(-1, *[1] * (like.dim() - 1))
