"""The certificate: proof, without the truth, that reconstructed data are the data.

Two conditions, both computed from the observation alone. The replay of the data must agree with what was
observed as closely as rounding lets any replay agree; and no small change of the data may leave the update
unchanged, that is, the Jacobian of the update must have full column rank at the precision of the numbers.

For few unknowns the Jacobian is computed and its smallest singular value looked at. For many, an indirect
proof is cheaper: move the data by a random v, replay, and attack the replayed update from scratch. If the
attack R returns the moved data, ``DR J v = v``; a random v lies in the eigenspace of ``DR J`` for 1 with
probability zero unless ``DR J`` is the identity, and then J has full column rank.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from attacks.replay import REPLAY_ERRORS, compared_names, observed_vector, own_randomness, replay_all
from attacks.rounding import rounding_of
from fedpriv.wire import Observation, Update

Evidence = tuple[Observation, ...]
Rerun = Callable[[Evidence], tuple[Tensor, Tensor | None]]
"""Attack other evidence from scratch: inputs and targets."""

SAFETY = 8.0
"""The replay may differ by this many times the rounding that is estimated."""
RESOLUTION = 1e-2
"""A change of the data by this much, relative to their size, must be visible above the rounding."""
_CHUNK_ENTRIES = 20_000_000
DIRECT_ENTRIES = 2_000_000
"""Up to this many entries the Jacobian is computed; beyond, the attack is run again on moved data."""


class Verdict(NamedTuple):
    """Residual, certificate, and the reason where it is withheld."""

    residual: float
    certified: bool
    reason: str = ""


def judge(observations: Evidence, inputs: Tensor, targets: Tensor | None, rerun: Rerun) -> Verdict:
    """Replay `inputs` and `targets` against every observation, and test that nothing else explains them.

    Parameters
    ----------
    observations : tuple of Observation
    inputs : Tensor of shape (n, *input_shape)
    targets : Tensor of shape (n, ...) or None
    rerun : callable
        The same attack, for the indirect proof.

    Returns
    -------
    Verdict
        The residual is the distance between replayed and observed updates, all visits together, relative to
        the observed ones.
    """
    unfinished = Verdict(float("nan"), False)
    if any(not t.numel() or not bool(torch.isfinite(t).all()) for t in (inputs, targets) if t is not None):
        return unfinished._replace(reason="no certificate: the claimed data are empty or not finite")
    try:
        with own_randomness():
            replayed = replay_all(observations, inputs, targets)
            rounding = rounding_of(observations, inputs, targets, replayed)
    except REPLAY_ERRORS as error:
        why = (str(error).splitlines() or [""])[0] if targets is not None else "its targets are unknown"
        return unfinished._replace(reason=f"no certificate: the update cannot be replayed, {why}")
    observed = torch.stack([observed_vector(o) for o in observations])
    distance = torch.linalg.vector_norm(replayed - observed, dim=1)
    residual = float(distance.norm() / observed.norm().clamp_min(1e-300))
    if any(o.knowledge.noise_std > 0 for o in observations):
        return Verdict(
            residual, False, "no certificate: noise was added, so other data explain the update as well"
        )
    # Written so that a NaN fails.
    if not bool((distance <= SAFETY * rounding).all() and torch.isfinite(rounding).all()):
        return Verdict(
            residual,
            False,
            f"no certificate: the replay is off by {residual:.1e}, more than rounding explains",
        )
    try:
        with own_randomness():
            determined = _is_determined(observations, inputs, targets, rounding, rerun)
    except REPLAY_ERRORS:  # not every operation can be differentiated twice and in batches
        determined = False
    if not determined:
        return Verdict(
            residual,
            False,
            "no certificate: the Jacobian lacks full column rank, other data explain the update too",
        )
    return Verdict(residual, True)


def _is_determined(
    observations: Evidence, inputs: Tensor, targets: Tensor | None, rounding: Tensor, rerun: Rerun
) -> bool:
    """Whether every small change of the data shows in the updates."""
    real = _real(targets)
    unknowns = inputs.numel() + (0 if real is None else real.numel())
    numbers = sum(len(observed_vector(o)) for o in observations)
    if unknowns * numbers > DIRECT_ENTRIES:
        return all(survives_a_move(observations, x, y, rerun) for x, y in moves(inputs, targets))
    size = float(inputs.double().square().mean().sqrt().clamp_min(1e-6))
    return numbers >= unknowns and all(
        smallest_singular_value(observations, x, y, rounding) * RESOLUTION * size > SAFETY
        for x, y in [(inputs, targets), *moves(inputs, targets)]
    )


def moves(inputs: Tensor, targets: Tensor | None) -> list[tuple[Tensor, Tensor | None]]:
    """The data moved a little in a random direction, and in the opposite one.

    At a kink of the loss or of an activation the derivative at the point itself may belong to the wrong side;
    one of two opposite moves lands on the side where the update does not change.
    """
    generator = torch.Generator().manual_seed(0)
    length = RESOLUTION * float(inputs.double().square().mean().sqrt().clamp_min(1e-6))
    shift = length * torch.randn(inputs.shape, generator=generator, dtype=torch.float64)
    real = _real(targets)
    if real is None:
        return [(inputs.double() + sign * shift, targets) for sign in (1, -1)]
    other = length * torch.randn(real.shape, generator=generator, dtype=torch.float64)
    return [(inputs.double() + sign * shift, real.double() + sign * other) for sign in (1, -1)]


def _real(targets: Tensor | None) -> Tensor | None:
    """Targets that are unknowns of the Jacobian; class labels are not."""
    return targets if targets is not None and targets.is_floating_point() else None


def smallest_singular_value(
    observations: Evidence, inputs: Tensor, targets: Tensor | None, rounding: Tensor
) -> float:
    """Of the Jacobian of all updates by inputs and real targets, each update in units of its rounding."""
    real = _real(targets)
    point = torch.cat([t.double().reshape(-1) for t in (inputs, real) if t is not None])
    point.requires_grad_()
    x = point[: inputs.numel()].reshape(inputs.shape)
    y = point[inputs.numel() :].reshape(real.shape) if real is not None else targets
    updates = (replay_all(observations, x, y) / rounding[:, None]).reshape(-1)
    return float(torch.linalg.svdvals(_jacobian(updates, point))[-1])


def _jacobian(updates: Tensor, point: Tensor) -> Tensor:
    """Differentiate `updates` by `point`; of a Jacobian with far more rows than columns, a Gaussian sketch.

    With m = 4 columns rows the sketch's smallest singular value is at least about 1 - sqrt(columns / m) = 1/2
    of the true one (Davidson and Szarek 2001), and its rank is never higher: a full rank seen here is real.
    """
    rows, columns = len(updates), len(point)
    if rows <= 4 * columns:
        weights = torch.eye(rows, dtype=updates.dtype)
    else:
        generator = torch.Generator().manual_seed(0)
        weights = (
            torch.randn(4 * columns, rows, generator=generator, dtype=updates.dtype) / (4 * columns) ** 0.5
        )
    chunk = max(1, _CHUNK_ENTRIES // rows)
    blocks = [
        torch.autograd.grad(
            updates,
            point,
            part,
            is_grads_batched=True,
            retain_graph=True,
            allow_unused=True,
            materialize_grads=True,
        )[0]
        for part in weights.split(chunk)
    ]
    return torch.cat(blocks)


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
    flat, found_flat = moved.reshape(len(moved), -1), found.double().reshape(len(found), -1)
    rows, columns = linear_sum_assignment(torch.cdist(flat, found_flat))
    size = float(moved.square().mean().sqrt())
    # A tenth of the move: far above rounding, far below anything that another data set would give.
    limit = 0.1 * RESOLUTION * size
    near = bool(((flat[rows] - found_flat[columns]).square().mean(dim=1).sqrt() < limit).all())
    if targets is None or found_targets is None:
        return near
    if _real(targets) is None:
        return near and torch.equal(found_targets[columns], targets[rows])
    return near and float((found_targets[columns] - targets[rows]).abs().max()) < limit


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
