"""The coordinate-wise median: against lying clients, not against a curious server."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch

from fedpriv.defenses.base import Measurements
from fedpriv.defenses.robust import RobustRule
from fedpriv.defenses.vectors import cast_like, unflatten
from fedpriv.wire import Tensors


@dataclass(frozen=True, kw_only=True)
class Median(RobustRule):
    """A trusted third party passes on the median of every coordinate.

    **This protects no privacy.** It is here as the contrast: robustness against clients who lie is another
    goal. The aggregator sees every update, and with an odd number of clients each coordinate that the server
    receives *is* the value of one client, not a mixture.

    Notes
    -----
    Every client counts alike. With an even number of clients the two middle values are averaged. Noise on
    top is refused: the median moves by more than ``clip_norm / num_clients`` if one client leaves.

    References
    ----------
    .. [1] D. Yin, Y. Chen, K. Ramchandran, P. Bartlett, "Byzantine-robust distributed learning: towards
       optimal statistical rates", ICML 2018, https://arxiv.org/abs/1803.01498

    Examples
    --------
    >>> updates = {name: {"w": torch.tensor(value)} for name, value in (("a", 1.0), ("b", 2.0), ("c", 900.0))}
    >>> Median().combine(updates, dict.fromkeys("abc", 1 / 3))[0]["w"]
    tensor(2.)
    """

    rule: ClassVar[str] = "median"

    def _of_rows(
        self, rows: torch.Tensor, updates: Mapping[str, Tensors]
    ) -> tuple[dict[str, torch.Tensor], Measurements]:
        ordered = rows.sort(dim=0).values
        n = len(ordered)
        middle = (ordered[(n - 1) // 2] + ordered[n // 2]) / 2
        like = next(iter(updates.values()))
        distance = float((rows - middle).norm(dim=1).max())
        return cast_like(unflatten(middle, like), like), {"largest_distance": distance}
