"""Random pruning: a random part of the coordinates is sent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from fedpriv.defenses.pruning import Pruning


@dataclass(frozen=True, kw_only=True)
class RandomPruning(Pruning):
    """Send a random set of coordinates, drawn anew for every update, and zeros for the others.

    Against an attack that knows it, this is a gradient of fewer neurons: what arrives is exact and the zeros
    show the mask. Over several rounds on the same data other coordinates arrive.

    Parameters
    ----------
    kept_fraction : float, default 0.1
        Part of all coordinates jointly that is sent, rounded down; strictly between 0 and 1.
    error_feedback : bool, default True
        Whether the rest is added to the next update of the same client, see
        `fedpriv.defenses.feedback.Compressor`.
    generator : torch.Generator, optional
        Source of the mask; without it the trainer's, or fresh entropy.

    Notes
    -----
    What is sent is not scaled up by ``1 / kept_fraction``; with error feedback it need not be. The report
    holds ``num_kept``, ``num_coordinates`` and ``residual_norm``.

    References
    ----------
    .. [1] J. Konečný et al., "Federated learning: strategies for improving communication efficiency", 2016,
       section 3 (random mask), https://arxiv.org/abs/1610.05492

    Examples
    --------
    >>> pruning = RandomPruning(kept_fraction=0.25, generator=torch.Generator().manual_seed(0))
    >>> sent, report = pruning({"w": torch.ones(8)})
    >>> int(sent["w"].sum()), report.values["num_kept"]
    (2, 2)
    """

    by_magnitude: ClassVar[bool] = False

    def _places(self, vector: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        return torch.randperm(len(vector), generator=generator, device=generator.device).to(vector.device)
