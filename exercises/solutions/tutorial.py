"""Lesson 2: recover Bob's two points from his answers: the answer."""

from __future__ import annotations

import torch
from torch import Tensor


def gradient(points: Tensor, targets: Tensor, theta: Tensor) -> Tensor:
    """2 Z^T (Z theta - y)."""
    z = torch.cat([points, torch.ones_like(points[:, :1])], dim=1)
    return 2 * z.T @ (z @ theta - targets)


def moments(models: Tensor, gradients: Tensor) -> tuple[Tensor, Tensor]:
    """Least squares for (A, c), one right-hand side for each row of A."""
    design = torch.cat([models, -torch.ones_like(models[:, :1])], dim=1)
    solution = torch.linalg.lstsq(design, gradients / 2).solution
    return solution[:-1].T, solution[-1]


def count(a: Tensor) -> int:
    """The corner of A."""
    return round(float(a[-1, -1]))


def points(a: Tensor, c: Tensor) -> Tensor:  # noqa: ARG001
    """Mean plus and minus the only direction in which they differ."""
    mean = a[:-1, -1] / a[-1, -1]
    values, vectors = torch.linalg.eigh(a[:-1, :-1] - 2 * torch.outer(mean, mean))
    step = vectors[:, -1] * (values[-1] / 2).clamp(min=0).sqrt()
    return torch.stack([mean + step, mean - step])
