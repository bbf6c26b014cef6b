"""The two opponents of every defense: one who has not heard of it, and one who has read its code.

Both get what the server saw and nothing else. Whatever an opponent tries, it chooses by its own residual.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import torch

import attacks
from attacks.adaptive import SignInversion, comparable, explains, for_mechanisms, unexplained
from attacks.adaptive.quantization import step_of
from attacks.exact.consistency import ConsistencyPeeling
from attacks.exact.first_layer import FirstLayerInversion
from attacks.exact.layers import LayerByLayerInversion
from attacks.exact.local_steps import LocalStepsInversion
from attacks.matching.dlg import DLG
from attacks.matching.idlg import IDLG
from attacks.matching.inverting_gradients import InvertingGradients
from attacks.matching.priors import Box
from fedpriv.lab.matrix.scene import with_knowledge
from fedpriv.wire import Observation
from fedpriv.wire.mechanisms import Quantized

PLAIN: tuple[attacks.Attack, ...] = (
    FirstLayerInversion(),
    ConsistencyPeeling(),
    LayerByLayerInversion(),
    DLG(starts=1, steps=150),
)
"""The attacks of those who were told of no defense, in this order until one explains the update."""
MORE: tuple[attacks.Attack, ...] = (
    LocalStepsInversion(),
    *PLAIN,
    IDLG(starts=1),
    InvertingGradients(starts=1, steps=200, box=Box(low=0.0, high=1.0)),
)
"""What the informed opponent tries of the plain attacks: local steps are published, and directions survive
where lengths do not."""
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
    found = _all_of(PLAIN, ignorant(seen[0]), seconds)
    return _answer(min(found, key=_residual)) if found else REFUSED


def _residual(found: attacks.Reconstruction) -> float:
    return found.residual if found.residual == found.residual else 1e300  # NaN: not replayable


def adaptive(seen: Sequence[Observation], *, seconds: float) -> Answer:
    """The attacks that know what is published; where these do not explain what arrived, the plain ones, too.

    Whatever the ignorant opponent tries is tried as well. A certificate counts first, then how little is left
    unexplained through the published defenses. Takes the arguments of `plain`; here all observations count.
    """
    evidence = tuple(seen)
    found = []
    for attack in map(_told_the_range, for_mechanisms(evidence)):
        with contextlib.suppress(attacks.NotIdentifiable):
            found.append(attack(evidence, time_budget=seconds))
            if bool(found[-1].certified.all()) or _stands(evidence, found[-1]):
                return _answer(found[-1])
    first = _rounding_as_noise(evidence[0])
    found += _all_of(MORE, first, seconds)
    # A certificate for somebody who takes the update for a plain gradient proves nothing.
    found += [
        replace(f, certified=torch.zeros_like(f.certified))
        for f in _all_of(PLAIN, ignorant(evidence[0]), seconds)
    ]
    return _answer(min(found, key=lambda f: _grade(evidence, f))) if found else REFUSED


def _stands(evidence: tuple[Observation, ...], found: attacks.Reconstruction) -> bool:
    """Whether an informed answer explains the update, or is one that no replay can compare with others."""
    inputs, targets = found.inputs, found.targets
    return not comparable(evidence, inputs) or explains(evidence, inputs, targets)


def _grade(evidence: tuple[Observation, ...], found: attacks.Reconstruction) -> tuple[bool, float]:
    """The smaller the better."""
    left = unexplained(evidence, found.inputs, found.targets)
    return not bool(found.certified.all()), left if left == left else 1e300


def _all_of(
    tried: Iterable[attacks.Attack], seen: Observation, seconds: float
) -> list[attacks.Reconstruction]:
    """What the attacks find, up to the first that explains the update."""
    found = []
    for attack in tried:
        with contextlib.suppress(attacks.NotIdentifiable):
            found.append(attack(seen, time_budget=seconds))
            if found[-1].residual <= EXPLAINED:
                break
    return found


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


def _answer(found: attacks.Reconstruction) -> Answer:
    """Pixels lie between 0 and 1, which is public: what lies outside is moved there."""
    return Answer(found.inputs.detach().float().clamp(0.0, 1.0), found.targets, found.method)


def _told_the_range(attack: attacks.Attack) -> attacks.Attack:
    """Pixels lie between 0 and 1, which is public."""
    return SignInversion(low=0.0, high=1.0) if isinstance(attack, SignInversion) else attack
