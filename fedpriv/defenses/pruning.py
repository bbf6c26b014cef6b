"""What the defenses that send a part of the coordinates share: how many, and that the zeros show which."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar, final

import torch

from fedpriv.defenses.base import Measurements
from fedpriv.defenses.feedback import Compressor
from fedpriv.wire.mechanisms import Sparsified


@dataclass(frozen=True, kw_only=True)
class Pruning(Compressor):
    """Send some coordinates as they are and zeros for the others. Write `_places`.

    Parameters
    ----------
    kept_fraction : float, default 0.1
        Part of all coordinates jointly that is sent, rounded down; strictly between 0 and 1.
    """

    kept_fraction: float = 0.1
    by_magnitude: ClassVar[bool]
    """Whether the largest coordinates are sent."""

    def __post_init__(self) -> None:
        """Check the fraction."""
        if not 0 < self.kept_fraction < 1:
            raise ValueError(
                f"kept_fraction must lie between 0 and 1, got {self.kept_fraction!r}; 0.1 sends a tenth of "
                "all coordinates, and 1 would be no defense"
            )

    @final
    def knowledge(self, scale: float = 1.0) -> tuple[Sparsified, ...]:  # noqa: ARG002 (the interface)
        """How much arrives, whether it is the largest part, and whether the rest comes later."""
        return (
            Sparsified(
                kept_fraction=self.kept_fraction,
                by_magnitude=self.by_magnitude,
                error_feedback=self.error_feedback,
            ),
        )

    @final
    def _compress(
        self, vector: torch.Tensor, generator: torch.Generator
    ) -> tuple[torch.Tensor, Measurements]:
        kept = num_kept(self.kept_fraction, len(vector))
        places = self._places(vector, generator)[:kept]
        sent = torch.zeros_like(vector)
        sent[places] = vector[places]
        return sent, {"num_kept": kept, "num_coordinates": len(vector)}

    @abstractmethod
    def _places(self, vector: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """All places of `vector`, those to be sent first."""


def num_kept(kept_fraction: float, num_coordinates: int) -> int:
    """How many of the coordinates are sent: the fraction rounded down, so never all of them.

    Examples
    --------
    >>> num_kept(0.1, 100), num_kept(0.9, 1), num_kept(0.29, 100)
    (10, 0, 29)
    """
    return min(int(kept_fraction * num_coordinates + 1e-9), max(num_coordinates - 1, 0))
