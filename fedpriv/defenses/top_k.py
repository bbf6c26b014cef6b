"""Gradient sparsification: only the largest coordinates are sent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from fedpriv.defenses.pruning import Pruning


@dataclass(frozen=True, kw_only=True)
class TopK(Pruning):
    """Send the coordinates of the largest absolute value and zeros for the others.

    Made for communication, sold as a defense. The zeros show the mask, and what arrives is exact: an attack
    that compares only the coordinates that arrived loses equations, not precision. The largest coordinates
    are also those that say most about the data.

    Parameters
    ----------
    kept_fraction : float, default 0.1
        Part of all coordinates jointly that is sent, rounded down; strictly between 0 and 1. Of an update
        with fewer than ``1 / kept_fraction`` coordinates nothing is sent.
    error_feedback : bool, default True
        Whether the rest is added to the next update of the same client, see
        `fedpriv.defenses.feedback.Compressor`: better accuracy, and nothing is withheld in the long run.
    generator : torch.Generator, optional
        Not used: nothing here is random. Ties are broken in favor of the earlier coordinate.

    Notes
    -----
    The report holds ``num_kept``, ``num_coordinates`` and ``residual_norm``.

    References
    ----------
    .. [1] A. Aji, K. Heafield, "Sparse communication for distributed gradient descent", EMNLP 2017,
       https://arxiv.org/abs/1704.05021
    .. [2] L. Zhu, Z. Liu, S. Han, "Deep leakage from gradients", NeurIPS 2019, section 5 (as a defense),
       https://arxiv.org/abs/1906.08935

    Examples
    --------
    >>> sent, report = TopK(kept_fraction=0.5)({"w": torch.tensor([1.0, -3.0, 2.0]), "b": torch.tensor(0.5)})
    >>> sent["w"], sent["b"]
    (tensor([ 0., -3.,  2.]), tensor(0.))
    """

    by_magnitude: ClassVar[bool] = True

    def _places(
        self,
        vector: torch.Tensor,
        generator: torch.Generator,  # noqa: ARG002 (the interface)
    ) -> torch.Tensor:
        return torch.argsort(vector.abs(), descending=True, stable=True)
