"""Least error of unbiased reconstruction under Rényi differential privacy."""

from __future__ import annotations

import math

import torch

from fedpriv.privacy.checks import check_not_negative


def rdp_error_bound(*, rdp_epsilon: float, data_range: float | torch.Tensor = 1.0) -> float:
    """Least mean squared error of any unbiased attack, per coordinate, on a (2, rdp_epsilon)-RDP release.

    ``mean(data_range²) / (4 (exp(rdp_epsilon) - 1))`` [1]_. Unlike `cramer_rao_bound` it needs neither the
    model nor the data, and it holds at every point at once.

    Parameters
    ----------
    rdp_epsilon : float
        Rényi privacy loss of order 2 for *replacement* of the unit's data (the bound compares data with other
        data). For Gaussian noise ``renyi_epsilon(noise_multiplier=s / 2, order=2)``, s the noise multiplier.
    data_range : float or Tensor (d,), default 1.0
        Width of the interval of possible values, of every coordinate or of each.

    Returns
    -------
    float
        Infinite without any information (`rdp_epsilon` = 0).

    Raises
    ------
    ValueError
        If `rdp_epsilon` is negative, or a width is not positive.

    Notes
    -----
    Assumed: the attack is unbiased (its mean is the truth, whatever the truth is). Clipping an estimate to
    [0, 1], or any prior, makes it biased; then `assouad_bound` still holds. Why it is true: from any point a
    coordinate can move by half its width w without leaving the data's domain; an unbiased estimate must
    follow, and the variance that this forces is at least ``(w / 2)² / chi²`` (Hammersley, Chapman, Robbins),
    while ``chi² <= exp(rdp_epsilon) - 1``.

    References
    ----------
    .. [1] C. Guo, B. Karrer, K. Chaudhuri, L. van der Maaten, "Bounding training data reconstruction in
       private (deep) learning", ICML 2022, https://arxiv.org/abs/2201.12383

    Examples
    --------
    >>> round(rdp_error_bound(rdp_epsilon=1.0), 4)
    0.1455
    """
    check_not_negative("rdp_epsilon", rdp_epsilon, "it comes from fedpriv.privacy.renyi_epsilon at order 2")
    squared = mean_squared_range(data_range)
    # expm1 overflows from 710 on, where the bound is zero in floating point anyway
    return math.inf if rdp_epsilon == 0 else squared / 4 / math.expm1(min(rdp_epsilon, 700.0))


def mean_squared_range(data_range: float | torch.Tensor) -> float:
    """Mean of the squared widths; a ``ValueError`` unless all are positive and finite."""
    widths = torch.as_tensor(data_range, dtype=torch.float64)
    if widths.numel() == 0 or not bool((widths.isfinite() & (widths > 0)).all()):
        raise ValueError(
            f"data_range must hold positive finite widths, got {data_range!r}; images in [0, 1] have 1.0"
        )
    return float(widths.square().mean())
