"""How well data explain what arrived behind published defenses: a grade that is comparable for all attacks.

The residual of a `Reconstruction` compares an undefended replay with the update, and wrong data may do better
there than the true ones. Here the numbers that a defense made useless are left out, lengths that a clipping
changed are free, signs are compared with signs, and noise of the declared size counts as explained.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.func import functional_call

from attacks.adaptive.directions import by_layer
from attacks.adaptive.evidence import see_through
from attacks.adaptive.quantization import step_of
from attacks.base import NotIdentifiable, Observations
from attacks.replay import REPLAY_ERRORS, observed_vector, own_randomness, replay, sent_state
from attacks.rounding import per_gradient
from fedpriv.wire import Knowledge, Observation
from fedpriv.wire.mechanisms import (
    Aggregated,
    Clipped,
    Mixed,
    Noised,
    Orthogonalized,
    PerSampleClipped,
    Quantized,
    SignOnly,
)

EXPLAINED = 1e-3
"""A relative distance up to which data explain an update, beyond its noise."""
_NOISE = 1.1
"""Beyond this many times its expected length noise explains nothing."""
_WRONG_SIGNS = 0.1


def comparable(observations: Observations, inputs: Tensor) -> bool:
    """Whether a replay can compare answers: not behind mixtures or sums, nor if the model draws at random."""
    model, known = observations[0].model, observations[0].knowledge
    if any(isinstance(m, Aggregated | Mixed | Orthogonalized) for m in known.mechanisms):
        return False
    try:
        with own_randomness(), torch.no_grad():
            state = sent_state(observations[0], torch.float64)
            first, second = (functional_call(model, state, (inputs.double(),)) for _ in range(2))
    except REPLAY_ERRORS:
        return False
    return torch.equal(first, second)


def unexplained(observations: Observations, inputs: Tensor, targets: Tensor | None) -> float:
    """What data leave unexplained of the evidence, relative to it; NaN where it cannot be replayed.

    Parameters
    ----------
    observations : tuple of Observation
        As the server saw them, all on these data. They must be `comparable`.
    inputs, targets : Tensor of shape (n, ...)
        What an attack found.

    Returns
    -------
    float
        Root of the mean squared share of all rounds; for signs the share of the wrong ones.

    Examples
    --------
    >>> import fedpriv
    >>> model, loss = torch.nn.Linear(2, 2), torch.nn.functional.cross_entropy
    >>> x, y = torch.tensor([[0.3, 0.7]]), torch.tensor([1])
    >>> clip = fedpriv.defenses.Clip(clip_norm=0.1)
    >>> trainer = fedpriv.FederatedTrainer(
    ...     model, loss, {"bob": (x, y)}, lr=0.1, schedule="fedsgd", defenses=[clip]
    ... )
    >>> seen = tuple(trainer.run(rounds=1).transcript.observations("bob"))
    >>> unexplained(seen, x, y) < 1e-6 < unexplained(seen, 1 - x, y)
    True
    """
    try:
        seen = see_through(observations)
    except NotIdentifiable:  # later rounds of error feedback
        seen = observations
    try:
        with own_randomness():
            left = [_left(o, observed_vector(o), replay(o, inputs, targets)) for o in seen]
    except REPLAY_ERRORS:
        return float("nan")
    return _mean(left)


def explains(observations: Observations, inputs: Tensor, targets: Tensor | None) -> bool:
    """Whether no other data can explain the evidence much better."""
    if observations[0].knowledge.applied(SignOnly):
        return unexplained(observations, inputs, targets) <= _WRONG_SIGNS
    shares = []
    for o in observations:
        observed, known = observed_vector(o), o.knowledge
        noise = math.hypot(
            known.noise_std / per_gradient(o), step_of(o) / 2 if known.applied(Quantized) else 0
        )
        order = _order(known)
        expected = noise / 2**0.5 * len(observed) if order == 1 else noise * len(observed) ** 0.5
        shares.append(EXPLAINED + _NOISE * expected / (float(observed.norm(p=order)) or 1.0))
    return unexplained(observations, inputs, targets) <= _mean(shares)


def _mean(shares: list[float]) -> float:
    return math.sqrt(sum(share * share for share in shares) / len(shares))


def _order(known: Knowledge) -> int:
    """Of the norm in which likely noise is short: the logarithm of Laplace's density is an absolute value."""
    return 1 if any(n.distribution == "laplace" for n in known.applied(Noised)) else 2


def _left(seen: Observation, observed: Tensor, replayed: Tensor) -> float:
    """Of one round."""
    known = seen.knowledge
    if known.applied(SignOnly):
        return float((torch.sign(replayed) != torch.sign(observed)).double().mean())
    order = _order(known)
    size = float(observed.norm(p=order).clamp_min(1e-300))
    if any(c.per_layer for c in known.applied(Clipped)):
        pieces = zip(by_layer(seen, observed).values(), by_layer(seen, replayed).values(), strict=True)
        return float(torch.cat([o - _factor(o, r) * r for o, r in pieces]).norm(p=order)) / size
    if any(isinstance(m, Clipped | PerSampleClipped) for m in known.mechanisms):
        replayed = replayed * _factor(observed, replayed)
    return float((replayed - observed).norm(p=order)) / size


def _factor(observed: Tensor, replayed: Tensor) -> float:
    """The number from 0 on by which `replayed` comes nearest to `observed`."""
    return float((observed @ replayed / replayed.square().sum().clamp_min(1e-300)).clamp_min(0))
