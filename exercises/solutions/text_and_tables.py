"""Lesson 10: tokens from gradients, and how good a guess is: the answer."""

from __future__ import annotations

import torch
from torch import Tensor


def tokens_used(embedding_gradient: Tensor) -> list[int]:
    """Rows that are not zero."""
    return [int(k) for k in embedding_gradient.abs().sum(dim=1).nonzero().flatten()]


def tokens_in_span(table: Tensor, gradient: Tensor, length: int) -> list[int]:
    """Rows of the table inside the row space."""
    basis = torch.linalg.svd(gradient).Vh[:length]
    rest = (table - table @ basis.T @ basis).norm(dim=1) / table.norm(dim=1)
    return [int(k) for k in (rest < 1e-6).nonzero().flatten()]


def guess_accuracy(table: Tensor) -> float:
    """The mode of each column."""
    return float((table == table.mode(dim=0).values).double().mean())
