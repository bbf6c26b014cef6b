"""L1 clipping: the bound that Laplace noise needs."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from fedpriv.defenses.base import Context, Defense, Measurements
from fedpriv.defenses.clip import factor_to
from fedpriv.defenses.vectors import cast_like, scaled
from fedpriv.wire import Tensors
from fedpriv.wire.mechanisms import Clipped


def check_l1_clip_norm(l1_clip_norm: float) -> None:
    """Raise a ``ValueError`` unless `l1_clip_norm` is positive and finite."""
    if not (math.isfinite(l1_clip_norm) and l1_clip_norm > 0):
        raise ValueError(
            f"l1_clip_norm must be a positive finite number, got {l1_clip_norm!r}; a sum of absolute values "
            "is up to sqrt(number of coordinates) times the usual clip_norm"
        )


def l1_norm(update: Tensors) -> float:
    """Sum of the absolute values of all coordinates, in float64.

    Examples
    --------
    >>> l1_norm({"weight": torch.tensor([3.0, 0.0]), "bias": torch.tensor(-4.0)})
    7.0
    """
    return sum(float(tensor.detach().double().abs().sum()) for tensor in update.values())


def l1_clip_factor(update: Tensors, l1_clip_norm: float) -> float:
    """``min(1, l1_clip_norm / L1 norm)``; 1 for the zero update."""
    return factor_to(l1_clip_norm, l1_norm(update), update)


@dataclass(frozen=True, kw_only=True)
class L1Clip(Defense):
    """Scale the update down to an L1 norm of at most `l1_clip_norm`.

    `Clip` bounds the L2 norm, which is what Gaussian noise needs. For `LaplaceNoise` behind an aggregator
    the sum of absolute values must be bounded, and that is what this does.

    Parameters
    ----------
    l1_clip_norm : float, default 1.0
        Largest sum of absolute values over all parameters jointly, scalars included; in the units of the
        update.

    Notes
    -----
    The report holds ``l1_norm_before``, ``clipped`` and ``scale`` besides the L2 norms.

    Examples
    --------
    >>> clipped, report = L1Clip(l1_clip_norm=1.0)({"w": torch.tensor([3.0, 0.0]), "b": torch.tensor(1.0)})
    >>> clipped["w"], report.values["l1_norm_before"]
    (tensor([0.7500, 0.0000]), 4.0)
    """

    l1_clip_norm: float = 1.0

    def __post_init__(self) -> None:
        """Check the bound."""
        check_l1_clip_norm(self.l1_clip_norm)

    def knowledge(self, scale: float = 1.0) -> tuple[Clipped, ...]:  # noqa: ARG002 (the interface)
        """The bound."""
        return (Clipped(clip_norm=self.l1_clip_norm, order=1),)

    def _apply(
        self,
        update: dict[str, torch.Tensor],
        context: Context,  # noqa: ARG002 (the interface)
    ) -> tuple[dict[str, torch.Tensor], Measurements]:
        factor = l1_clip_factor(update, self.l1_clip_norm)
        values: Measurements = {"l1_norm_before": l1_norm(update), "clipped": factor < 1, "scale": factor}
        return cast_like(scaled(update, factor), update), values
