"""Krum, the update with the closest neighbors: against lying clients, not against a curious server."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch

from fedpriv.defenses.base import Measurements
from fedpriv.defenses.robust import RobustRule
from fedpriv.wire import Tensors


@dataclass(frozen=True, kw_only=True)
class Krum(RobustRule):
    """A trusted third party passes on the single update with the smallest distances to its neighbors.

    **This protects no privacy; it does the opposite.** The server receives one client's update as it is, and
    every attack on a single update works. It is here as the contrast: robustness against clients who lie is
    another goal.

    Parameters
    ----------
    num_liars : int, default 0
        How many clients may lie, f. At least ``2 f + 3`` clients are needed. An update's score is the sum of
        its squared distances to its ``n - f - 2`` nearest others.

    Notes
    -----
    Every client counts alike. The report holds ``chosen``, the place of the client that was passed on in the
    order of the clients, and ``score``. Noise on top is refused: one client can change everything.

    References
    ----------
    .. [1] P. Blanchard, E. M. El Mhamdi, R. Guerraoui, J. Stainer, "Machine learning with adversaries:
       Byzantine tolerant gradient descent", NeurIPS 2017, https://arxiv.org/abs/1703.02757

    Examples
    --------
    >>> updates = {name: {"w": torch.tensor(value)} for name, value in (("a", 1.0), ("b", 1.5), ("c", 900.0))}
    >>> chosen, report = Krum().combine(updates, dict.fromkeys("abc", 1 / 3))
    >>> chosen["w"], report.values["chosen"]
    (tensor(1.), 0)
    """

    num_liars: int = 0
    rule: ClassVar[str] = "krum"

    def __post_init__(self) -> None:
        """Check the number."""
        if isinstance(self.num_liars, bool) or not isinstance(self.num_liars, int) or self.num_liars < 0:
            raise ValueError(f"num_liars must be a whole number of 0 or more, got {self.num_liars!r}")

    def _of_rows(
        self, rows: torch.Tensor, updates: Mapping[str, Tensors]
    ) -> tuple[dict[str, torch.Tensor], Measurements]:
        needed = 2 * self.num_liars + 3
        if len(rows) < needed:
            raise ValueError(
                f"Krum with num_liars={self.num_liars} needs at least {needed} clients, got {len(rows)}; "
                "add clients or lower num_liars"
            )
        # Not torch.cdist: its matrix form loses small distances between long vectors.
        squares = torch.stack([(rows - row).square().sum(1) for row in rows])
        ordered = squares.sort(dim=1).values
        scores = ordered[:, 1 : len(rows) - self.num_liars - 1].sum(1)  # column 0 is the update itself
        chosen = int(scores.argmin())
        update = list(updates.values())[chosen]
        return {name: tensor.detach().clone() for name, tensor in update.items()}, {
            "chosen": chosen,
            "score": float(scores[chosen]),
        }
