"""Lesson 4: count the samples of a batch and tell true samples from false ones: the answer."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def batch_size(weight_gradient: Tensor) -> int:
    """Singular values that are not rounding."""
    values = torch.linalg.svdvals(weight_gradient)
    return int((values > 1e-9 * values[0]).sum())


def distance(vectors: Tensor, gradient: Tensor, rank: int) -> Tensor:
    """What is left after the projection."""
    basis = torch.linalg.svd(gradient).Vh[:rank]
    rest = vectors - vectors @ basis.T @ basis
    return rest.norm(dim=1) / vectors.norm(dim=1)


def true_samples(candidates: Tensor, hidden: Callable[[Tensor], Tensor], g1: Tensor, g2: Tensor) -> Tensor:
    """Inside both spaces."""
    rank = batch_size(g1)
    return (distance(candidates, g1, rank) < 1e-6) & (distance(hidden(candidates), g2, rank) < 1e-6)
