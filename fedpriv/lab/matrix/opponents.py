"""The two opponents of every defense: one who has not heard of it, and one who has read its code.

Both get what the server saw and nothing else. Whatever an opponent tries, it chooses by its own residual.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import torch

import attacks
from attacks.adaptive import SignInversion, for_mechanisms
from attacks.adaptive.quantization import step_of
from attacks.exact.consistency import ConsistencyPeeling
from attacks.exact.first_layer import FirstLayerInversion
from attacks.exact.layers import LayerByLayerInversion
from attacks.matching.dlg import DLG
from attacks.matching.inverting_gradients import InvertingGradients
from attacks.matching.priors import Box
from attacks.replay import REPLAY_ERRORS, observed_vector, own_randomness, replay
from fedpriv.lab.matrix.scene import with_knowledge
from fedpriv.wire import Observation
from fedpriv.wire.mechanisms import Clipped, PerSampleClipped, Quantized, SignOnly

PLAIN: tuple[attacks.Attack, ...] = (
    FirstLayerInversion(),
    ConsistencyPeeling(),
    LayerByLayerInversion(),
    DLG(starts=1, steps=150),
)
"""The attacks of those who were told of no defense, in this order until one explains the update."""
BY_DIRECTION: tuple[attacks.Attack, ...] = (
    *PLAIN[:3],
    InvertingGradients(starts=1, steps=200, box=Box(low=0.0, high=1.0)),
)
"""Where the length of the update is not that of a gradient, an informed attacker compares directions."""
_RESCALING = (Clipped, PerSampleClipped, SignOnly)
EXPLAINED = 1e-3
"""Relative residual that ends their search."""


@dataclass(frozen=True)
class Answer:
    """What an opponent hands in.

    Parameters
    ----------
    inputs : Tensor (m, 1, 8, 8)
        Its images; none if every attack refused.
    targets : Tensor or None
    attack : str
        The name of the attack.
    """

    inputs: torch.Tensor
    targets: torch.Tensor | None
    attack: str


REFUSED = Answer(torch.empty(0, 1, 8, 8), None, "refused")


def plain(seen: Sequence[Observation], *, seconds: float) -> Answer:
    """Attack the first observation as if there were no defense.

    Parameters
    ----------
    seen : sequence of Observation
    seconds : float
        At most, for each attack that is tried.
    """
    return _best(PLAIN, ignorant(seen[0]), seconds, _residual)


def adaptive(seen: Sequence[Observation], *, seconds: float) -> Answer:
    """The attacks that know what is published; where none of them applies, the plain ones.

    Takes the arguments of `plain`; here all observations count.
    """
    for attack in map(_told_the_range, for_mechanisms(seen)):
        try:
            found = attack(seen, time_budget=seconds)
        except attacks.NotIdentifiable:
            continue
        return _answer(found)
    first = _rounding_as_noise(seen[0])
    if any(isinstance(m, _RESCALING) for m in first.knowledge.mechanisms):
        return _best(BY_DIRECTION, first, seconds, _misdirection)
    return _best(PLAIN, first, seconds, _residual)


def ignorant(observation: Observation) -> Observation:
    """The same evidence for somebody who takes it for a plain gradient of limited precision.

    The size of the noise stays: without it exact attacks would refuse what they can read at small noise.
    """
    known = replace(observation.knowledge, mechanisms=(), local_steps=1)
    return with_knowledge(observation, known)


def _rounding_as_noise(observation: Observation) -> Observation:
    """Quantization is unbiased noise of at most half a step, for attacks that know noise alone."""
    known = observation.knowledge
    if not known.applied(Quantized):
        return observation
    return with_knowledge(observation, replace(known, noise_std=step_of(observation) / 2))


def _best(
    tried: Iterable[attacks.Attack],
    seen: Observation,
    seconds: float,
    distance: Callable[[Observation, attacks.Reconstruction], float],
) -> Answer:
    """The answer with the smallest distance; the first one that explains the update ends the search."""
    best, answer = float("inf"), REFUSED
    for attack in tried:
        try:
            found = attack(seen, time_budget=seconds)
        except (attacks.NotIdentifiable, ArithmeticError):  # numbers beyond all range: no gradient of images
            continue
        size = distance(seen, found)
        if size < best:
            best, answer = size, _answer(found)
        if best <= EXPLAINED:
            break
    return answer


def _residual(seen: Observation, found: attacks.Reconstruction) -> float:  # noqa: ARG001 (the interface)
    return found.residual if found.residual == found.residual else 1e300  # NaN: not replayable


def _misdirection(seen: Observation, found: attacks.Reconstruction) -> float:
    """One minus the cosine between the update and the gradient of what was found."""
    try:
        with own_randomness():
            replayed = replay(seen, found.inputs, found.targets)
    except REPLAY_ERRORS:
        return 1e300
    observed = observed_vector(seen)
    cosine = float(torch.nn.functional.cosine_similarity(replayed, observed, dim=0))
    return 1 - cosine if cosine == cosine else 1e300


def _answer(found: attacks.Reconstruction) -> Answer:
    """Pixels lie between 0 and 1, which is public: what lies outside is moved there."""
    return Answer(found.inputs.detach().float().clamp(0.0, 1.0), found.targets, found.method)


def _told_the_range(attack: attacks.Attack) -> attacks.Attack:
    """Pixels lie between 0 and 1, which is public."""
    return SignInversion(low=0.0, high=1.0) if isinstance(attack, SignInversion) else attack
