"""Lesson 6: a weighted mean, differences of means, and a defense that does nothing: the answer."""

from __future__ import annotations

import torch
from torch import Tensor

Update = dict[str, Tensor]


def weighted_mean(updates: list[Update], num_samples: list[int]) -> Update:
    """Weights are shares of the samples."""
    total = sum(num_samples)
    shares = [n / total for n in num_samples]
    return {
        name: sum((w * u[name] for w, u in zip(shares, updates, strict=True)), start=torch.tensor(0.0))
        for name in updates[0]
    }


def one_left(before: Update, total_before: int, after: Update, total_after: int) -> Update:
    """Sums, difference, mean."""
    own = total_before - total_after
    return {name: (total_before * before[name] - total_after * after[name]) / own for name in before}


def clip(update: Update, clip_norm: float) -> Update:
    """One factor for all, and new tensors."""
    length = torch.stack([tensor.norm() for tensor in update.values()]).norm()
    factor = min(1.0, clip_norm / float(length)) if length > 0 else 1.0
    return {name: tensor * factor for name, tensor in update.items()}
