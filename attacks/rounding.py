"""How far rounding alone lets a correct replay differ from what was observed."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from attacks.replay import compared_names, replay_all
from fedpriv.wire import Observation

_NOTHING = 1e-30
"""Rounding below this belongs to numbers that are exactly zero."""


def rounding_of(
    observations: Sequence[Observation], inputs: Tensor, targets: Tensor | None, exact: Tensor
) -> Tensor:
    """Norm of the error that the client's own arithmetic puts into each update; shape (visits,).

    Measured, not guessed: the same computation once in float32 and once in float64 shows how much rounding is
    amplified by cancellation; scaled to the client's precision, plus the rounding of the stored numbers. A
    visit whose answer is exactly zero counts as no more precise than the smallest of the others.
    """
    tensors = observations[0].update.tensors
    dtype = max((tensors[n].dtype for n in compared_names(observations[0])), key=lambda d: torch.finfo(d).eps)
    epsilon = torch.finfo(dtype).eps
    coarse = replay_all(observations, inputs, targets, torch.float32).double()
    # Half precision is stored, but computed in float32: a CPU has no half-precision products.
    amplified = torch.linalg.vector_norm(coarse - exact, dim=1) * min(
        1.0, epsilon / torch.finfo(torch.float32).eps
    )
    stored = torch.tensor([stored_rounding(o) for o in observations], dtype=torch.float64)
    sizes = torch.linalg.vector_norm(exact, dim=1)
    answered = sizes[stored > _NOTHING]
    floor = epsilon * sizes.clamp_min(float(answered.min()) if len(answered) else 0.0)
    total: Tensor = amplified + stored + floor
    return total


def stored_rounding(observation: Observation) -> float:
    """Norm of half a unit in the last place of every number that crossed the wire.

    In the units of `attacks.replay.observed_vector`.
    """
    tensors = [observation.update.tensors[n] for n in compared_names(observation)]
    norm = math.sqrt(sum(_half_units(t) ** 2 for t in tensors))
    return norm / per_gradient(observation)


def _half_units(tensor: Tensor) -> float:
    limits = torch.finfo(tensor.dtype)
    # Below the smallest normal number (6e-5 in half precision) the spacing no longer shrinks.
    subnormal = limits.smallest_normal * math.sqrt(tensor.numel())
    return limits.eps / 2 * math.hypot(float(tensor.double().norm()), subnormal)


def per_gradient(observation: Observation) -> float:
    """How much an error in the numbers as sent is larger than the error that it causes in the gradient."""
    return 1.0 if observation.update.kind == "gradient" else observation.knowledge.learning_rate or 1.0
