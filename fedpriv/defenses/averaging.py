"""Gradient averaging by a trusted aggregator."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from fedpriv.defenses.base import Aggregator, Context, Measurements
from fedpriv.defenses.places import fetch, hand_over, location_of
from fedpriv.pointers import PointerTensor, VirtualWorker
from fedpriv.wire import Tensors


@dataclass(frozen=True, kw_only=True)
class Averaging(Aggregator):
    """A trusted third party averages the updates; the server receives only the weighted mean.

    It hides *whose* data moved the model, not *what* the data are: in the tutorial the server still
    recovers the points of Bob and Alice together. The aggregator itself sees every single update.

    Notes
    -----
    Updates that are pointers move from their workers straight to a worker of the aggregator, local ones are
    sent
    there; the server fetches only the mean. Owners of private updates release that mean and nothing else.

    Sums run in float64 in the order of the clients and are cast back at the end.

    Examples
    --------
    >>> mean, report = Averaging().combine(
    ...     {"bob": {"w": torch.tensor(1.0)}, "alice": {"w": torch.tensor(3.0)}}, {"bob": 0.5, "alice": 0.5}
    ... )
    >>> mean["w"], report.values["num_clients"]
    (tensor(2.), 2)
    """

    def _combine(
        self,
        updates: Mapping[str, Tensors],
        weights: Mapping[str, float],
        context: Context,  # noqa: ARG002 (the interface)
    ) -> tuple[dict[str, torch.Tensor], Measurements]:
        house = (
            VirtualWorker(id="aggregator") if any(location_of(u.values()) for u in updates.values()) else None
        )
        first = next(iter(updates.values()))
        mean = {}
        for name, like in first.items():
            total = hand_over(torch.zeros(like.shape, dtype=torch.float64, device=like.device), house)
            for client, update in updates.items():
                total = total + weights[client] * hand_over(update[name].detach(), house).double()
            mean[name] = _released(total.to(like.dtype), [update[name] for update in updates.values()])
        return fetch(mean), {"largest_weight": max(weights.values())}


def _released(mean: torch.Tensor, parts: Sequence[torch.Tensor]) -> torch.Tensor:
    """Make `mean` public for each owner of a private part: a mean over all is what they agreed to."""
    for part in parts:
        if isinstance(mean, PointerTensor) and isinstance(part, PointerTensor) and part.private:
            mean = part.location.release(mean, through=torch.clone, reason=f"mean over {len(parts)} clients")
    return mean
