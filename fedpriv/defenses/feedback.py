"""Error feedback: what compression left out is added to the next round's update."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field

import torch

from fedpriv.defenses.base import Context, Defense, Measurements
from fedpriv.defenses.randomness import given_or_fresh
from fedpriv.defenses.vectors import cast_like, flatten, unflatten


@dataclass(frozen=True, kw_only=True)
class Compressor(Defense):
    """A defense that sends less than the update, and may keep the rest for later. Write `_compress`.

    With error feedback, in every round ``sent = compress(update + residual)`` and
    ``residual = update + residual - sent``. Therefore, always,
    ``sum of all sent + residual = sum of all updates``: what is left out is *delayed, not hidden*. A server
    that adds up the rounds gets everything that was ever pruned for long enough.

    Parameters
    ----------
    error_feedback : bool
        Whether to keep the residual, for each client by itself, in `Context.memory`.
    generator : torch.Generator, optional
        Source of randomness, if the compression is random; without it the trainer's, or fresh entropy.
    """

    error_feedback: bool = True
    generator: torch.Generator | None = field(default=None, repr=False, compare=False)

    @abstractmethod
    def _compress(
        self, vector: torch.Tensor, generator: torch.Generator
    ) -> tuple[torch.Tensor, Measurements]:
        """What is sent of `vector` (float64, all coordinates), in the same shape, and the measurements."""

    def _apply(
        self, update: dict[str, torch.Tensor], context: Context
    ) -> tuple[dict[str, torch.Tensor], Measurements]:
        vector = flatten(update)
        if self.error_feedback and context.client in context.memory:
            vector = vector + context.memory[context.client]
        compressed, values = self._compress(vector, given_or_fresh(self.generator, context.generator))
        sent = cast_like(unflatten(compressed, update), update)
        residual = vector - flatten(sent)  # of what was really sent, after rounding to its dtype
        if self.error_feedback:
            context.memory[context.client] = residual
        return sent, {**values, "residual_norm": float(residual.norm())}
