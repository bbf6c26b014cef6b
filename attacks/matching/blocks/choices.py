"""Which entry of every pooling window was the largest: beliefs between 0 and 1, from a quadratic program.

The weight gradient of a convolution behind max pooling is ``sum over windows of signal * patch``, where the
patch is the one at the largest output of the window. Given (an estimate of) all patches, the choice in
channel c solves a least-squares problem whose unknowns are n Q windows of K entries, each window summing to
one; beside it stands what every choice would mean for the known pooled value. All channels share one matrix,
so the alternating direction method of multipliers (S. Boyd et al., "Distributed Optimization and Statistical
Learning via the Alternating Direction Method of Multipliers", Foundations and Trends in Machine Learning 3,
2011, section 5) costs one product with it a step for all of them.
"""

from __future__ import annotations

import time

import torch
from torch import Tensor


def beliefs(
    patches: Tensor,
    sums: Tensor,
    signals: Tensor,
    costs: Tensor,
    start: Tensor,
    *,
    noise: float,
    steps: int,
    deadline: float = float("inf"),
) -> Tensor:
    """Minimize ``|sums - sum signal belief patch|^2 / (2 noise^2) + sum belief cost`` over the simplices.

    Parameters
    ----------
    patches : Tensor of shape (windows, entries, size)
    sums : Tensor of shape (channels, size)
    signals : Tensor of shape (channels, windows)
        Zero where a window does not count.
    costs, start : Tensor of shape (channels, windows, entries)
    noise : float
        Standard deviation of an entry of `sums` that the patches leave unexplained.
    steps : int

    Returns
    -------
    Tensor of shape (channels, windows, entries)
        Not negative, every window sums to one.
    """
    windows, entries, size = patches.shape
    center = patches.mean(1, keepdim=True)  # the sums over the windows are fixed
    flat = (patches - center).reshape(-1, size)
    inner = flat @ flat.T / noise**2
    sides = (sums - signals @ center[:, 0]) @ flat.T / noise**2
    strength = 0.3 * float(inner.diagonal().mean()) + 1e-30
    identity = torch.eye(len(inner), dtype=inner.dtype, device=inner.device)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(inner + strength * identity))
    counts = (signals.abs() > 1e-6 * signals.abs().max())[..., None]
    scale = torch.where(counts, signals[..., None], torch.ones_like(signals[..., None]))
    belief, dual = start, torch.zeros_like(sides)
    weighted = (belief * signals[..., None]).flatten(1)
    for _ in range(steps):
        free = (sides + strength * (weighted - dual)) @ inverse
        wanted = (free + dual).reshape(-1, windows, entries)
        moved = wanted / scale - costs / (strength * scale.square())
        belief = torch.where(counts, simplex(moved), simplex(-1e3 * costs))
        weighted = (belief * signals[..., None]).flatten(1)
        dual = dual + free - weighted
        if time.perf_counter() > deadline:
            break
    return belief


def simplex(values: Tensor) -> Tensor:
    """The nearest point with nonnegative entries that sum to one, along the last dimension.

    J. Duchi et al., "Efficient Projections onto the l1-Ball for Learning in High Dimensions", ICML 2008,
    figure 1.

    Examples
    --------
    >>> simplex(torch.tensor([2.0, 1.5, -3.0]))
    tensor([0.7500, 0.2500, 0.0000])
    """
    values = (values - values.amax(-1, keepdim=True)).clamp_min(-10.0)  # entries below -1 end at zero anyway
    ordered = values.sort(dim=-1, descending=True).values
    excess = ordered.cumsum(-1) - 1
    places = torch.arange(1, values.shape[-1] + 1, dtype=values.dtype, device=values.device)
    positive = (ordered * places > excess).sum(-1, keepdim=True).clamp_min(1)
    return (values - excess.gather(-1, positive - 1) / positive).clamp_min(0.0)
