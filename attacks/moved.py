"""Move the data and attack from scratch, to see whether the attack follows.

This is the indirect proof of `attacks.certificate`: an attack that returns whatever data were put behind the
update reads them from the update.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from attacks.replay import compared_names, replay_all
from fedpriv.wire import Observation, Update

Evidence = tuple[Observation, ...]
Rerun = Callable[[Evidence], tuple[Tensor, Tensor | None]]
"""Attack other evidence from scratch: inputs and targets."""

RESOLUTION = 1e-2
"""A change of the data by this much, relative to their size, must be visible above the rounding."""


def real_targets(targets: Tensor | None) -> Tensor | None:
    """Targets that are unknowns of the Jacobian; class labels are not."""
    return targets if targets is not None and targets.is_floating_point() else None


def moves(inputs: Tensor, targets: Tensor | None) -> list[tuple[Tensor, Tensor | None]]:
    """The data moved a little in a random direction, and in the opposite one.

    At a kink of the loss or of an activation the derivative at the point itself may belong to the wrong side;
    one of two opposite moves lands on the side where the update does not change.
    """
    generator = torch.Generator().manual_seed(0)
    length = RESOLUTION * float(inputs.double().square().mean().sqrt().clamp_min(1e-6))
    shift = length * torch.randn(inputs.shape, generator=generator, dtype=torch.float64)
    real = real_targets(targets)
    if real is None:
        return [(inputs.double() + sign * shift, targets) for sign in (1, -1)]
    other = length * torch.randn(real.shape, generator=generator, dtype=torch.float64)
    return [(inputs.double() + sign * shift, real.double() + sign * other) for sign in (1, -1)]


def other_tokens(inputs: Tensor, tries: int = 3) -> list[Tensor]:
    """The first token of every sequence replaced by another one that occurs, in several random ways.

    Several, because one may hit the padding, which some models do not see.
    """
    generator = torch.Generator().manual_seed(0)
    known = inputs.unique()
    if len(known) < 2:
        known = torch.cat([known, known + 1, (known - 1).clamp_min(0)]).unique()
    changed = []
    for _ in range(tries):
        other = inputs.clone()
        place = torch.searchsorted(known, inputs[:, 0].contiguous())
        step = torch.randint(1, len(known), (len(inputs),), generator=generator)
        other[:, 0] = known[(place + step) % len(known)]
        changed.append(other)
    return changed


def survives_a_move(observations: Evidence, moved: Tensor, targets: Tensor | None, rerun: Rerun) -> bool:
    """Whether the attack, run from scratch on the update of randomly moved data, returns the moved data."""
    vectors = replay_all(observations, moved, targets)
    try:
        found, found_targets = rerun(
            tuple(_with_vector(o, v) for o, v in zip(observations, vectors, strict=True))
        )
    except ValueError:
        return False
    if found.shape != moved.shape:
        return False
    if not moved.is_floating_point():
        return _same_rows(moved, targets, found, found_targets)
    flat, found_flat = moved.reshape(len(moved), -1), found.double().reshape(len(found), -1)
    rows, columns = linear_sum_assignment(torch.cdist(flat, found_flat))
    size = float(moved.square().mean().sqrt())
    # A tenth of the move: far above rounding, far below anything that another data set would give.
    limit = 0.1 * RESOLUTION * size
    near = bool(((flat[rows] - found_flat[columns]).square().mean(dim=1).sqrt() < limit).all())
    if targets is None or found_targets is None:
        return near
    if real_targets(targets) is None:
        return near and torch.equal(found_targets[columns], targets[rows])
    return near and float((found_targets[columns] - targets[rows]).abs().max()) < limit


def _same_rows(moved: Tensor, targets: Tensor | None, found: Tensor, found_targets: Tensor | None) -> bool:
    """Whether two sets of token sequences are equal, with their labels, in any order."""
    if targets is None or found_targets is None or targets.shape != found_targets.shape:
        return False
    rows = [
        torch.cat([x, y.reshape(len(y), -1)], dim=1).tolist()
        for x, y in ((moved, targets), (found, found_targets))
    ]
    return sorted(rows[0]) == sorted(rows[1])


def _with_vector(observation: Observation, vector: Tensor) -> Observation:
    """The same observation, had this update come back instead."""
    names, update = compared_names(observation), observation.update
    parts = vector.split([update.tensors[n].numel() for n in names])
    tensors = dict(update.tensors)
    rate = observation.knowledge.learning_rate or 1.0
    for name, part in zip(names, parts, strict=True):
        value = part.reshape(tensors[name].shape)
        if update.kind == "parameters":
            value = observation.state[name].double() - rate * value
        tensors[name] = value.to(tensors[name].dtype)
    moved = Update(
        kind=update.kind,
        tensors=tensors,
        sender=update.sender,
        contributors=update.contributors,
        round=update.round,
        num_samples=update.num_samples,
    )
    return Observation(
        observation.model, moved, observation.loss_fn, observation.knowledge, state=observation.state
    )
