"""The Laplace mechanism on an update, or on the mean of several."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch

from fedpriv.defenses.base import Context, Defense, Measurements
from fedpriv.defenses.l1_clip import L1Clip, check_l1_clip_norm, l1_clip_factor, l1_norm
from fedpriv.defenses.noise import check_noise_multiplier, noisy
from fedpriv.defenses.randomness import given_or_fresh, standard_laplace
from fedpriv.wire.mechanisms import Clipped, Mechanism, Noised


@dataclass(frozen=True, kw_only=True)
class LaplaceNoise(Defense):
    """Clip the update to the L1 norm `l1_clip_norm`, then add Laplace noise to every coordinate.

    The density of the noise on a coordinate is ``exp(-|z| / b) / (2 b)`` with
    ``b = noise_multiplier * l1_clip_norm`` on a client, and that times the largest weight of a client after
    an aggregator (as `GaussianNoise`; an `L1Clip` must then stand directly before the aggregator). One
    release is (1 / noise_multiplier, 0)-differentially private.

    Parameters
    ----------
    l1_clip_norm : float, default 1.0
        Largest sum of absolute values over all parameters jointly, in the units of the update. Not the L2
        norm of `Clip`: an update with d coordinates of equal size has sqrt(d) times its L2 norm.
    noise_multiplier : float, default 1.0
        *Scale* b of the noise divided by the L1 sensitivity; the standard deviation is sqrt(2) b. Must be
        positive.
    generator : torch.Generator, optional
        Source of the noise; without it the trainer's, or fresh entropy.

    Notes
    -----
    Unit of privacy: the client; adjacency: add/remove, as for `GaussianNoise`. For models of many
    parameters this is far more noise than the Gaussian mechanism needs: the L1 norm grows with the number
    of coordinates.

    The report holds ``noise_std`` (sqrt(2) b), ``l1_norm_before``, ``clipped``, ``scale`` and ``snr``: the L2
    norm of the clipped update divided by ``noise_std * sqrt(number of coordinates)``.

    References
    ----------
    .. [1] C. Dwork, F. McSherry, K. Nissim, A. Smith, "Calibrating noise to sensitivity in private data
       analysis", TCC 2006, https://doi.org/10.1007/11681878_14

    Examples
    --------
    >>> noise = LaplaceNoise(noise_multiplier=2.0, generator=torch.Generator().manual_seed(0))
    >>> defended, report = noise({"w": torch.zeros(2), "b": torch.tensor(0.0)})
    >>> round(report.values["noise_std"], 4), bool(defended["b"] != 0)
    (2.8284, True)
    """

    l1_clip_norm: float = 1.0
    noise_multiplier: float = 1.0
    generator: torch.Generator | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Check the ranges."""
        check_l1_clip_norm(self.l1_clip_norm)
        check_noise_multiplier(self.noise_multiplier, instead=L1Clip(l1_clip_norm=self.l1_clip_norm))

    def noise_std(self, largest_weight: float = 1.0) -> float:
        """Standard deviation of the noise on one coordinate, in the units of the update."""
        return math.sqrt(2) * self.noise_multiplier * self.l1_clip_norm * largest_weight

    def knowledge(self, scale: float = 1.0) -> tuple[Mechanism, ...]:
        """The bound and the noise."""
        noise = Noised(std=self.noise_std(scale), distribution="laplace")
        return Clipped(clip_norm=self.l1_clip_norm, order=1), noise

    def _apply(
        self, update: dict[str, torch.Tensor], context: Context
    ) -> tuple[dict[str, torch.Tensor], Measurements]:
        generator = given_or_fresh(self.generator, context.generator)
        std = self.noise_std(context.largest_weight)
        factor = l1_clip_factor(update, self.l1_clip_norm)
        defended, values = noisy(
            update, factor, standard_laplace, generator, size=std / math.sqrt(2), std=std
        )
        return defended, {"l1_norm_before": l1_norm(update), **values}
