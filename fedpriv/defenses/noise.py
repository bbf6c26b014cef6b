"""What the defenses that add noise have in common: the range of the multiplier, and adding it."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from fedpriv.defenses.base import Measurements
from fedpriv.defenses.vectors import cast_like, joint_norm, num_coordinates, scaled
from fedpriv.wire import Tensors

Draw = Callable[[torch.Tensor, torch.Generator], torch.Tensor]
"""``draw(like, generator)``: independent float64 noise for every coordinate of `like`."""


def check_noise_multiplier(noise_multiplier: float, *, instead: object) -> None:
    """Raise a ``ValueError`` unless the multiplier is positive and finite; `instead` clips without noise."""
    if not (math.isfinite(noise_multiplier) and noise_multiplier > 0):
        raise ValueError(
            f"noise_multiplier must be a positive finite number, got {noise_multiplier!r}; for clipping "
            f"without noise use {instead}"
        )


def noisy(
    update: Tensors, factor: float, draw: Draw, generator: torch.Generator, *, size: float, std: float
) -> tuple[dict[str, torch.Tensor], Measurements]:
    """``factor * update + size * noise`` in the dtypes of `update`, and what to report.

    Parameters
    ----------
    update : Tensors
    factor : float
        That of the clipping.
    draw : Draw
        Noise of unit size.
    generator : torch.Generator
    size, std : float
        What the noise is multiplied by, and the standard deviation that this makes.

    Returns
    -------
    defended : dict of str to Tensor
    values : Measurements
        ``noise_std``, ``clipped``, ``scale`` and ``snr``: the norm of the clipped update divided by the
        noise's expected root mean square norm.
    """
    clean = scaled(update, factor)
    defended = {name: tensor + size * draw(tensor, generator) for name, tensor in clean.items()}
    expected_norm = std * math.sqrt(num_coordinates(update))
    values: Measurements = {
        "noise_std": std,
        "clipped": factor < 1,
        "scale": factor,
        "snr": joint_norm(clean) / expected_norm if expected_norm else 0.0,
    }
    return cast_like(defended, update), values
