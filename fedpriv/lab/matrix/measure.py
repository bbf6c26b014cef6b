"""One row: leakage to both opponents, accuracy, bytes, and the limits, over several seeds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch

from fedpriv.lab.matrix.cost import bytes_sent
from fedpriv.lab.matrix.entries import Entry
from fedpriv.lab.matrix.limits import Limits, limits
from fedpriv.lab.matrix.opponents import Answer, adaptive, plain
from fedpriv.lab.matrix.scene import Scene, accuracy, attacked_round, change, world
from fedpriv.lab.matrix.victims import Victim
from fedpriv.lab.scoring import score

NOTHING_CHANGED = 1e-6
"""A relative change of the update below this is rounding: the defense did nothing."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How much is measured.

    Parameters
    ----------
    seeds : sequence of int
        One attacked round each.
    training_seeds : sequence of int
        One training each.
    tuning_seed : int
        Another seed, on whose training images the learning rate is chosen.
    rates : sequence of float
        The learning rates to choose from; the same for every defense.
    rounds : int
        Of training.
    tuning_rounds : int
        Of training for each rate on the tuning seed.
    seconds : float
        At most, for each attack that is tried.
    """

    seeds: Sequence[int]
    training_seeds: Sequence[int]
    tuning_seed: int = 399
    rates: Sequence[float] = (0.4, 1.6)
    rounds: int = 60
    tuning_rounds: int = 30
    seconds: float = 20.0


@dataclass(frozen=True, kw_only=True)
class Leak:
    """What one opponent got, over all seeds.

    Parameters
    ----------
    attack : str
        The attack that answered most often; ``"refused"`` if none did.
    psnr, psnr_low, psnr_high : float
        Median, smallest and largest PSNR in dB over the seeds, of the image that came back best. A gray
        picture counts where every attack refused.
    refused : float
        Share of seeds on which every attack refused.
    identified : float
        Share of seeds on which the answer is nearer to the true image than to nine others.
    """

    attack: str
    psnr: float
    psnr_low: float
    psnr_high: float
    refused: float
    identified: float


@dataclass(frozen=True, kw_only=True)
class Learned:
    """What a defense leaves of the model.

    Parameters
    ----------
    rate : float
        The learning rate that was chosen.
    accuracy, accuracy_low, accuracy_high : float
        Median, smallest and largest over the training seeds.
    """

    rate: float
    accuracy: float
    accuracy_low: float
    accuracy_high: float


@dataclass(frozen=True, kw_only=True)
class Leaked:
    """What is sent, what two opponents get of it, and what theory says.

    Parameters
    ----------
    change : float or None
        Median of ``|sent - plain| / |plain|``: 0 for a defense that does nothing.
    bytes_per_round : float
        From each client, by the rule of `fedpriv.lab.matrix.cost`.
    plain, adaptive : Leak
        What the two opponents got.
    guess_psnr : float
        Median PSNR of a gray picture.
    limits : Limits
        Of the first seed.
    """

    change: float | None
    bytes_per_round: float
    plain: Leak
    adaptive: Leak
    guess_psnr: float
    limits: Limits

    @property
    def does_nothing(self) -> bool:
        """Whether what was sent is the plain update up to rounding."""
        return self.change is not None and self.change < NOTHING_CHANGED

    @property
    def leak(self) -> float:
        """PSNR in dB of the better opponent: an informed one can always do what an ignorant one does."""
        return max(self.plain.psnr, self.adaptive.psnr)


@dataclass(frozen=True, kw_only=True)
class Named:
    """Which defense at which strength on which model.

    Parameters
    ----------
    model, defense, strength, family : str
    adaptive_needs : str
        What the adaptive attack needs beyond the update and the published protocol.
    """

    model: str
    defense: str
    strength: str
    family: str
    adaptive_needs: str = ""

    @property
    def name(self) -> str:
        """Defense and strength."""
        return f"{self.defense} {self.strength}".strip()


@dataclass(frozen=True, kw_only=True)
class Row(Learned, Leaked, Named):
    """One defense at one strength on one model, with all that was measured."""


def row(entry: Entry, victim: Victim, learned: Learned, leaked: Leaked) -> Row:
    """Put together what was measured of `entry` on `victim`."""
    return Row(
        model=victim.name,
        defense=entry.defense,
        strength=entry.strength,
        family=entry.family,
        adaptive_needs=entry.adaptive_needs,
        **vars(leaked),
        **vars(learned),
    )


def measure(entry: Entry, victim: Victim, plan: Plan) -> Row:
    """Play all seeds of `plan`."""
    return row(entry, victim, learn(entry, victim, plan), leak(entry, victim, plan))


def learn(entry: Entry, victim: Victim, plan: Plan) -> Learned:
    """Train with `entry`, at the rate that suits it."""
    rate = best_rate(entry, victim, plan)
    trained = [accuracy(entry, victim, s, rate=rate, rounds=plan.rounds) for s in plan.training_seeds]
    return Learned(
        rate=rate,
        accuracy=statistics.median(trained),
        accuracy_low=min(trained),
        accuracy_high=max(trained),
    )


def leak(entry: Entry, victim: Victim, plan: Plan) -> Leaked:
    """Attack one round of each seed twice."""
    scenes = [attacked_round(entry, victim, seed) for seed in plan.seeds]
    changes = [change(entry, victim, scene, seed) for scene, seed in zip(scenes, plan.seeds, strict=True)]
    known = [c for c in changes if c is not None]
    return Leaked(
        change=statistics.median(known) if known else None,
        bytes_per_round=statistics.median(bytes_sent(s.seen[0], s.reports) for s in scenes),
        plain=_leak([plain(s.seen, seconds=plan.seconds) for s in scenes], scenes, plan.seeds),
        adaptive=_leak([adaptive(s.seen, seconds=plan.seconds) for s in scenes], scenes, plan.seeds),
        guess_psnr=statistics.median(psnr_of(_gray(), s) for s in scenes),
        limits=limits(entry, victim, scenes[0], rounds=plan.rounds),
    )


def best_rate(entry: Entry, victim: Victim, plan: Plan) -> float:
    """The learning rate with the best accuracy on the training images of the tuning seed."""

    def reached(rate: float) -> float:
        return accuracy(entry, victim, plan.tuning_seed, rate=rate, rounds=plan.tuning_rounds, validate=True)

    return plan.rates[0] if len(plan.rates) == 1 else max(plan.rates, key=reached)


def psnr_of(inputs: torch.Tensor, scene: Scene) -> float:
    """PSNR in dB of the true image that came back best; the gray picture's if nothing was claimed."""
    claimed = inputs if len(inputs) else _gray()
    return float(score(claimed, scene.images, data_range=1.0).psnr.max())


def identified(inputs: torch.Tensor, scene: Scene, seed: int) -> float:
    """Whether the best claim is nearer to its true image than to any of nine others; a tenth for no claim."""
    if not len(inputs) or not bool(inputs.isfinite().all()):
        return 0.1
    found = score(inputs, scene.images, data_range=1.0)
    index = int(found.psnr.argmax())
    claim = inputs[int(found.assignment[index])].double().reshape(1, 1, 8, 8)
    offered = torch.cat([scene.images[index][None], world(seed).others]).double()
    return float((offered - claim).square().flatten(1).sum(1).argmin() == 0)


def _gray() -> torch.Tensor:
    return torch.full((1, 1, 8, 8), 0.5)


def _leak(answers: Sequence[Answer], scenes: Sequence[Scene], seeds: Iterable[int]) -> Leak:
    psnr = [psnr_of(a.inputs, s) for a, s in zip(answers, scenes, strict=True)]
    psnr = [value if math.isfinite(value) else -math.inf for value in psnr]
    told = [identified(a.inputs, s, seed) for a, s, seed in zip(answers, scenes, seeds, strict=True)]
    return Leak(
        attack=statistics.mode(a.attack for a in answers),
        psnr=statistics.median(psnr),
        psnr_low=min(psnr),
        psnr_high=max(psnr),
        refused=statistics.mean(len(a.inputs) == 0 for a in answers),
        identified=statistics.mean(told),
    )
