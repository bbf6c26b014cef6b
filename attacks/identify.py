"""What can be recovered from an observation, said before any attack runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from attacks.base import Attack, NotIdentifiable, as_evidence
from attacks.certificate import stored_rounding
from attacks.exact.first_layer import FirstLayerInversion, first_layer_gradient
from attacks.exact.moments import find_span
from attacks.exact.regression import MomentInversion, count_samples, visits_of
from fedpriv.wire import Observation

ATTACKS: tuple[type[Attack], ...] = (FirstLayerInversion, MomentInversion)
"""Every attack, in the order in which `attacks.reconstruct` tries them."""


@dataclass(frozen=True, kw_only=True)
class Applicability:
    """Whether one attack can be tried, and if not, why."""

    attack: type[Attack]
    reason: str | None

    @property
    def applies(self) -> bool:
        """Whether the attack can be tried."""
        return self.reason is None


@dataclass(frozen=True, kw_only=True)
class Identifiability:
    """The report of `identifiability`.

    Parameters
    ----------
    rank : int or None
        Numerical rank of the evidence: of the first layer's gradient, or of all visits of a linear model.
    min_samples, max_samples : int or None
        Bounds on the number of samples; None where nothing limits it.
    verdict : str
        What can be recovered and why, in one or two sentences.
    attacks : tuple of Applicability
    """

    rank: int | None
    min_samples: int
    max_samples: int | None
    verdict: str
    attacks: tuple[Applicability, ...]

    def __str__(self) -> str:
        count = f"{self.min_samples}" if self.min_samples == self.max_samples else (
            f"{self.min_samples} to {self.max_samples}" if self.max_samples else f"at least {self.min_samples}"
        )
        lines = [self.verdict, f"rank of the evidence: {self.rank}; number of samples: {count}"]
        lines += [f"  {'yes' if a.applies else 'no '}  {a.attack.name}{'' if a.applies else ': ' + str(a.reason)}" for a in self.attacks]
        return "\n".join(lines)


def identifiability(observations: Observation | Sequence[Observation]) -> Identifiability:
    """Say what the evidence determines, without attacking it.

    Parameters
    ----------
    observations : Observation or sequence of Observation
        One update, or several visits of one sender.

    Returns
    -------
    Identifiability
        ``print`` it for a table of attacks and reasons.

    Examples
    --------
    >>> import fedpriv
    >>> model, loss = torch.nn.Linear(3, 2), torch.nn.functional.cross_entropy
    >>> value = loss(model(torch.ones(1, 3)), torch.tensor([0]))
    >>> report = identifiability(fedpriv.Observation(model, torch.autograd.grad(value, model.parameters()), loss))
    >>> report.rank, [a.attack.name for a in report.attacks if a.applies]
    (1, ['first-layer inversion'])
    """
    evidence = as_evidence(observations)
    attacks = tuple(Applicability(attack=a, reason=a().why_not(evidence)) for a in ATTACKS)
    usable = {a.attack for a in attacks if a.applies}
    if MomentInversion in usable and (len(evidence) > 1 or FirstLayerInversion not in usable):
        return _of_regression(evidence, attacks)
    if FirstLayerInversion in usable:
        return Identifiability(
            rank=1,
            min_samples=1,
            max_samples=1,
            verdict="One sample, exactly: the weight gradient of the first linear layer divided by its bias gradient.",
            attacks=attacks,
        )
    rank = _first_layer_rank(evidence[-1])
    reasons = "; ".join(f"{a.attack.name}: {a.reason}" for a in attacks)
    return Identifiability(
        rank=rank,
        min_samples=max(rank or 1, evidence[-1].knowledge.num_samples or 1),
        max_samples=evidence[-1].knowledge.num_samples,
        verdict=f"No attack applies ({reasons}).",
        attacks=attacks,
    )


def _of_regression(evidence: tuple[Observation, ...], attacks: tuple[Applicability, ...]) -> Identifiability:
    visits, loss = visits_of(evidence)
    span = find_span(visits)
    knowledge = evidence[0].knowledge
    if span is None:
        verdict = "Nothing: the update is zero up to rounding."
        return Identifiability(rank=0, min_samples=0, max_samples=None, verdict=verdict, attacks=attacks)
    try:
        count = count_samples(visits, span, loss, knowledge.num_samples, noisy=knowledge.noise_std > 0)
    except NotIdentifiable as refusal:
        return Identifiability(
            rank=span.rank, min_samples=span.rank, max_samples=None, verdict=f"Nothing certain: {refusal}.", attacks=attacks
        )
    number, rank = count.num_samples, span.rank
    if not count.certain and rank == len(visits.theta):
        verdict = (
            f"Every visit so far added a dimension: there are at least {rank} samples. If there are {rank} and no more, "
            + ("they follow exactly." if rank <= 2 else "they are known up to a rotation.")
            + " One more visit tells."
        )
        return Identifiability(rank=rank, min_samples=rank, max_samples=None, verdict=verdict, attacks=attacks)
    if rank == 1:
        verdict = f"{number} equal input(s), exactly, and the mean of their targets."
    elif number == rank == 2:
        verdict = "Both samples, exactly, inputs and targets."
    else:
        how = "the declared values single them out if only one data set fits" if knowledge.input_values else (
            f"the samples themselves only up to a rotation of the {number}-dimensional sample space that fixes the "
            f"vector of ones; declare Knowledge(input_values=...) to single them out"
        )
        verdict = f"Number ({number}), mean, second moments and span of the samples, exactly; {how}."
    bound = number if count.certain else None
    return Identifiability(
        rank=rank, min_samples=number if count.certain else rank, max_samples=bound, verdict=verdict, attacks=attacks
    )


def _first_layer_rank(observation: Observation) -> int | None:
    try:
        weight, bias, _ = first_layer_gradient(observation)
    except ValueError:
        return None
    values = torch.linalg.svdvals(torch.cat([weight, bias[:, None]], dim=1))
    noise = stored_rounding(observation) + observation.knowledge.noise_std * sum(weight.shape) ** 0.5
    return int((values > max(4 * noise, 1e-7 * float(values[0]))).sum())
