"""How far an estimate is from the truth, sample by sample.

Every function takes two tensors of one shape ``(n, *shape)``, pairs them in order and returns a float64
tensor ``(n,)``. An estimate that holds NaN gets NaN (and infinity, an infinite error): never a good value.
"""

from __future__ import annotations

import math

import torch

PSNR_CAP = 120.0
"""Highest PSNR reported, in dB.

An exact match would be infinitely good and one such sample would hide all others in a mean. 120 dB is an
error of one millionth of the data range, about the rounding of float32 values near one, so what lies above is
arithmetic and not leakage.
"""

_SSIM_WINDOW = 7  # scikit-image's default; smaller images get the largest odd window that fits


def mse(estimate: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Mean squared error of every sample, in squared units of the data.

    Parameters
    ----------
    estimate, truth : Tensor of shape (n, *shape)
        The samples, paired in order.

    Returns
    -------
    Tensor of shape (n,), float64

    Examples
    --------
    >>> mse(torch.tensor([[1.0, 1.0], [0.0, 3.0]]), torch.tensor([[1.0, 1.0], [0.0, 1.0]])).tolist()
    [0.0, 2.0]
    """
    return _difference(estimate, truth).square().mean(dim=1)


def max_abs_error(estimate: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Largest absolute error of any coordinate, for every sample, in units of the data.

    Parameters
    ----------
    estimate, truth : Tensor of shape (n, *shape)
        The samples, paired in order.

    Returns
    -------
    Tensor of shape (n,), float64
    """
    return _difference(estimate, truth).abs().amax(dim=1)


def psnr(estimate: torch.Tensor, truth: torch.Tensor, *, data_range: float) -> torch.Tensor:
    """Peak signal-to-noise ratio of every sample, in dB: ``10 log10(data_range² / mse)``, at most `PSNR_CAP`.

    Parameters
    ----------
    estimate, truth : Tensor of shape (n, *shape)
        The samples, paired in order.
    data_range : float
        Largest possible value minus smallest possible value.

    Returns
    -------
    Tensor of shape (n,), float64

    Examples
    --------
    An error of a tenth everywhere is 20 dB, no error is the cap.

    >>> psnr(torch.tensor([[0.6], [0.5]]), torch.tensor([[0.5], [0.5]]), data_range=1.0).round().tolist()
    [20.0, 120.0]
    """
    return psnr_from_mse(mse(estimate, truth), data_range)


def psnr_from_mse(error: torch.Tensor, data_range: float) -> torch.Tensor:
    """PSNR in dB of mean squared errors of any shape; NaN stays NaN, an infinite error is ``-inf``."""
    if not (math.isfinite(data_range) and data_range > 0):
        raise ValueError(
            f"data_range must be a positive number (largest minus smallest value), got {data_range!r}"
        )
    # Differences of logarithms: the square of a tiny or huge range would leave float64.
    decibels = 20 * math.log10(data_range) - 10 * error.log10()
    return decibels.clamp(max=PSNR_CAP)


def ssim(estimate: torch.Tensor, truth: torch.Tensor, *, data_range: float) -> torch.Tensor:
    """Structural similarity of every image, from -1 to 1 (same); NaN for samples that are no images.

    Images are ``(H, W)`` or ``(C, H, W)`` with at least three pixels a side. The window is scikit-image's
    default of 7 × 7 pixels, or the largest odd one that fits into a smaller image.

    Parameters
    ----------
    estimate, truth : Tensor of shape (n, H, W) or (n, C, H, W)
        The images, paired in order.
    data_range : float
        Largest possible value minus smallest possible value.

    Returns
    -------
    Tensor of shape (n,), float64

    References
    ----------
    Z. Wang, A. C. Bovik, H. R. Sheikh, E. P. Simoncelli, "Image quality assessment: from error visibility to
    structural similarity", IEEE Transactions on Image Processing 13(4), 2004,
    https://doi.org/10.1109/TIP.2003.819861
    """
    _difference(estimate, truth)
    values = torch.full((len(truth),), math.nan, dtype=torch.float64)
    if truth.ndim not in (3, 4) or min(truth.shape[-2:]) < 3:
        return values
    from skimage.metrics import structural_similarity

    window = min(_SSIM_WINDOW, *truth.shape[-2:])
    window -= 1 - window % 2
    first, second = (images.detach().cpu().double().numpy() for images in (truth, estimate))
    for index in torch.arange(len(truth))[_finite(estimate)].tolist():
        values[index] = structural_similarity(
            first[index],
            second[index],
            data_range=data_range,
            win_size=window,
            channel_axis=0 if truth.ndim == 4 else None,
        )
    return values


def _difference(estimate: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """``estimate - truth`` as float64 of shape (n, coordinates)."""
    if estimate.shape != truth.shape or truth.ndim == 0 or truth.numel() == 0:
        raise ValueError(
            f"expected two tensors of one shape (n, *shape), not empty, got {tuple(estimate.shape)} and "
            f"{tuple(truth.shape)}; pair the samples first (fedpriv.lab.score does)"
        )
    return (estimate.detach().cpu().double() - truth.detach().cpu().double()).reshape(len(truth), -1)


def _finite(samples: torch.Tensor) -> torch.Tensor:
    """Which samples hold no NaN and no infinity, (n,) of bool."""
    return samples.detach().cpu().reshape(len(samples), -1).isfinite().all(dim=1)
