"""Which reconstructed sample belongs to which true one: an attack returns them in any order and number."""

from __future__ import annotations

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment

from fedpriv.lab.metrics import psnr_from_mse

_CHUNK = 2**22  # differences held at once, in float64 values: 32 MiB


def match(estimates: torch.Tensor, truth: torch.Tensor, *, data_range: float = 1.0) -> torch.Tensor:
    """Pair true samples with reconstructed ones, one to one, so that the mean PSNR is the highest possible.

    The error of a pair is its mean squared error, taken in decibels (`fedpriv.lab.psnr`) and not as it
    stands: with plain squared errors, one wild estimate can make it cheaper to tear an exact pair apart, and
    a leak would go unreported.

    Parameters
    ----------
    estimates : Tensor of shape (m, *shape)
        The reconstruction. Samples that hold NaN or infinity are paired with nothing.
    truth : Tensor of shape (n, *shape)
        The true samples, all finite.
    data_range : float, optional
        Largest possible value minus smallest possible value of the data.

    Returns
    -------
    Tensor of shape (n,), int64
        For every true sample the index of its estimate, or -1 where none is left.

    Notes
    -----
    The assignment is solved exactly by ``scipy.optimize.linear_sum_assignment`` (modified Jonker-Volgenant).

    Examples
    --------
    >>> truth = torch.tensor([[0.0], [0.5], [1.0]])
    >>> match(torch.tensor([[0.9], [float("nan")], [0.1]]), truth).tolist()
    [2, -1, 0]
    """
    if truth.ndim == 0 or truth.numel() == 0:
        raise ValueError(f"expected at least one true sample, got a tensor of shape {tuple(truth.shape)}")
    if estimates.ndim == 0 or estimates.shape[1:] != truth.shape[1:]:
        raise ValueError(
            f"expected reconstructed samples of shape {tuple(truth.shape[1:])}, as the truth has, "
            f"got {tuple(estimates.shape[1:])}; reshape them to (count, *{tuple(truth.shape[1:])})"
        )
    flat_truth = truth.detach().cpu().double().reshape(len(truth), -1)
    if not flat_truth.isfinite().all():
        raise ValueError("expected finite true samples, got NaN or infinity among them; clean the data first")
    result = torch.full((len(truth),), -1, dtype=torch.int64)
    flat = estimates.detach().cpu().double().reshape(len(estimates), flat_truth.shape[1])
    usable = flat.isfinite().all(dim=1).nonzero()[:, 0]
    if len(usable) == 0:
        return result
    quality = psnr_from_mse(pairwise_mse(flat[usable], flat_truth), data_range)
    # An overflow to an infinite error is -inf dB, which the solver refuses; float64 has no finite PSNR below
    # -1e4.
    rows, columns = linear_sum_assignment(quality.clamp(min=-1e4).numpy(), maximize=True)
    result[torch.from_numpy(np.asarray(rows))] = usable[torch.from_numpy(np.asarray(columns))]
    return result


def pairwise_mse(estimates: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Mean squared error of every true sample (rows) against every estimate (columns).

    Differences are formed before they are squared: the shorter ``|a|² + |b|² - 2ab`` loses exact matches to
    rounding.

    Parameters
    ----------
    estimates : Tensor of shape (m, coordinates)
    truth : Tensor of shape (n, coordinates)

    Returns
    -------
    Tensor of shape (n, m)
    """
    step = max(1, _CHUNK // max(1, estimates.numel()))
    blocks = [(estimates[None] - rows[:, None]).square().mean(dim=2) for rows in truth.split(step)]
    return torch.cat(blocks)
