"""What robust aggregation rules share: all updates as rows of one matrix, each client counting alike."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import ClassVar, final

import torch

from fedpriv.defenses.base import Aggregator, Context, Measurements
from fedpriv.defenses.places import location_of
from fedpriv.defenses.vectors import flatten
from fedpriv.wire import Tensors
from fedpriv.wire.mechanisms import Aggregated


class RobustRule(Aggregator):
    """A stand-in for the mean that a few liars cannot move far. Write `rule` and `_of_rows`.

    It protects no privacy: robustness against clients who lie is another goal.
    """

    is_mean: ClassVar[bool] = False
    rule: ClassVar[str]
    """Its name in `Aggregated`."""

    @final
    def knowledge(self) -> tuple[Aggregated, ...]:
        """The rule."""
        return (Aggregated(rule=self.rule),)

    @final
    def _combine(
        self,
        updates: Mapping[str, Tensors],
        weights: Mapping[str, float],
        context: Context,  # noqa: ARG002 (the interface)
    ) -> tuple[dict[str, torch.Tensor], Measurements]:
        return self._of_rows(_stacked(type(self).__name__, updates, weights), updates)

    @abstractmethod
    def _of_rows(
        self, rows: torch.Tensor, updates: Mapping[str, Tensors]
    ) -> tuple[dict[str, torch.Tensor], Measurements]:
        """What is passed on; `rows` (clients, coordinates) in float64, in the order of `updates`."""


def _stacked(name: str, updates: Mapping[str, Tensors], weights: Mapping[str, float]) -> torch.Tensor:
    """All updates as rows, in float64; a ``ValueError`` if they are elsewhere or weighted differently."""
    place = location_of(tensor for update in updates.values() for tensor in update.values())
    if place is not None:
        raise ValueError(
            f"{name} compares the updates of the clients and needs them here, got pointers to {place.id!r}; "
            "use Averaging, which works through pointers"
        )
    if max(weights.values()) - min(weights.values()) > 1e-9:
        raise ValueError(
            f'{name} counts every client alike, got the weights {dict(weights)}; use weights="uniform"'
        )
    return torch.stack([flatten(update) for update in updates.values()])
