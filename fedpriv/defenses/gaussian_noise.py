"""The Gaussian mechanism on an update, or on the mean of several."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from fedpriv.defenses.base import Context, Defense, Measurements
from fedpriv.defenses.clip import Clip, check_clip_norm, clip_factor
from fedpriv.defenses.noise import check_noise_multiplier, noisy
from fedpriv.defenses.randomness import given_or_fresh, standard_normal
from fedpriv.wire.mechanisms import Clipped, Mechanism, Noised


@dataclass(frozen=True, kw_only=True)
class GaussianNoise(Defense):
    """Clip the update to `clip_norm`, then add N(0, std²) to every coordinate, scalars included.

    On a client, std = ``noise_multiplier * clip_norm``: nobody else ever sees the clean update (local
    noise). After an aggregator, std = ``noise_multiplier * clip_norm * w`` with w the largest weight of a
    client in the mean,
    ``1 / num_clients`` if it is uniform: that mean moves by at most ``clip_norm * w`` if one client leaves
    (its update becomes zero), provided that a `Clip` stood before the aggregator, which the trainer demands.

    Parameters
    ----------
    clip_norm : float, default 1.0
        L2 norm over all parameters jointly, in the units of the update (for returned parameters, of
        after - before).
    noise_multiplier : float, default 0.8
        Noise standard deviation divided by the sensitivity. Must be positive: for clipping alone use `Clip`.
    generator : torch.Generator, optional
        Source of the noise; without it the trainer's, or fresh entropy. Torch's generators are made for
        simulation: real deployments need a cryptographic one.

    Notes
    -----
    The unit of privacy is the client, the adjacency add/remove (a client's update replaced by zero). If
    neighbours may differ in *what* a client sends (replace), the sensitivity doubles and the same noise
    counts as half the multiplier. The noise is drawn in float64 and cast at the end; the low bits of floating
    point noise are known to leak [2]_, which this simulation does not treat.

    The report holds ``noise_std``, ``clipped``, ``scale`` and ``snr``: the norm of the clipped update divided
    by the noise's expected root mean square norm, ``std * sqrt(number of coordinates)``.

    References
    ----------
    .. [1] C. Dwork and A. Roth, "The algorithmic foundations of differential privacy", 2014, appendix A,
       https://www.cis.upenn.edu/~aaroth/Papers/privacybook.pdf
    .. [2] I. Mironov, "On significance of the least significant bits for differential privacy", CCS 2012

    Examples
    --------
    >>> noise = GaussianNoise(clip_norm=1.0, noise_multiplier=0.5, generator=torch.Generator().manual_seed(0))
    >>> defended, report = noise({"w": torch.zeros(2), "b": torch.tensor(0.0)})
    >>> report.values["noise_std"], bool(defended["b"] != 0)
    (0.5, True)
    """

    clip_norm: float = 1.0
    noise_multiplier: float = 0.8
    generator: torch.Generator | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Check the ranges."""
        check_clip_norm(self.clip_norm)
        check_noise_multiplier(self.noise_multiplier, instead=Clip(clip_norm=self.clip_norm))

    def noise_std(self, largest_weight: float = 1.0) -> float:
        """Standard deviation of the noise on one coordinate, in the units of the update."""
        return self.noise_multiplier * self.clip_norm * largest_weight

    def knowledge(self, scale: float = 1.0) -> tuple[Mechanism, ...]:
        """The bound and the noise."""
        return Clipped(clip_norm=self.clip_norm), Noised(std=self.noise_std(scale))

    def _apply(
        self, update: dict[str, torch.Tensor], context: Context
    ) -> tuple[dict[str, torch.Tensor], Measurements]:
        generator = given_or_fresh(self.generator, context.generator)
        std = self.noise_std(context.largest_weight)
        # A mean of clipped updates obeys the bound already; clipping it again cannot raise its sensitivity.
        return noisy(
            update, clip_factor(update, self.clip_norm), standard_normal, generator, size=std, std=std
        )
