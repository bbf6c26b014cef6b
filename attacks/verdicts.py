"""What the evidence determines, in words and numbers, for each way of reading it; see `attacks.identify`."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from attacks.base import Attack, NotIdentifiable
from attacks.exact.consistency.approach import solvable
from attacks.exact.consistency.rounds import plans
from attacks.exact.count import Count, count_samples, measure
from attacks.exact.first_layer import first_layer_gradient, spectral_noise
from attacks.exact.local_steps.change import first_layer
from attacks.exact.moments import Span
from fedpriv.wire import Observation


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
        Those that know the declared defenses first, then all others.
    """

    rank: int | None
    min_samples: int
    max_samples: int | None
    verdict: str
    attacks: tuple[Applicability, ...]

    def __str__(self) -> str:
        count = (
            f"{self.min_samples}"
            if self.min_samples == self.max_samples
            else (
                f"{self.min_samples} to {self.max_samples}"
                if self.max_samples
                else f"at least {self.min_samples}"
            )
        )
        lines = [self.verdict, f"rank of the evidence: {self.rank}; number of samples: {count}"]
        lines += [
            f"  {'yes' if a.applies else 'no '}  {a.attack.name}{'' if a.applies else ': ' + str(a.reason)}"
            for a in self.attacks
        ]
        return "\n".join(lines)


def behind_a_defense(
    evidence: tuple[Observation, ...],
    chosen: type[Attack],
    attacks: tuple[Applicability, ...],
    told: int | None,
) -> Identifiability:
    """What the attack that knows the declared defenses is for; ranks of a changed update would mislead."""
    defenses = sorted({type(m).__name__ for o in evidence for m in o.knowledge.mechanisms})
    purpose = (chosen.__doc__ or "").strip().partition("\n")[0]
    verdict = f"Behind {', '.join(defenses)}, {chosen.name} can be tried: {purpose}"
    return Identifiability(
        rank=None, min_samples=told or 1, max_samples=told, verdict=verdict, attacks=attacks
    )


def of_batch(
    evidence: tuple[Observation, ...], attacks: tuple[Applicability, ...], told: int | None
) -> Identifiability:
    """For a batch that `ConsistencyPeeling` can take apart."""
    visits = solvable(evidence)
    assert not isinstance(visits, str)  # the attack applies
    rounds = [visit.evidence for visit in visits]
    plan = plans(rounds)[0]
    rank = rounds[plan[0]].two.rank
    verdict = (
        f"A whole batch of {rank} different samples, exactly, with their targets: inputs and activations "
        f"lie in the spans of the first two linear layers' gradients, and the samples alone satisfy both."
    )
    if len(plan) > 1:
        verdict += f" {len(plan)} visits show the same samples and are solved together."
    return Identifiability(
        rank=rank, min_samples=max(rank, told or 0), max_samples=told, verdict=verdict, attacks=attacks
    )


def of_local_steps(
    evidence: tuple[Observation, ...], attacks: tuple[Applicability, ...], told: int | None
) -> Identifiability:
    """For parameters after several full-batch steps."""
    seen = [first_layer(observation) for observation in evidence]
    rank = max(layer[0].rank for layer in seen if not isinstance(layer, str))
    verdict = (
        f"A whole batch of {rank} different samples, exactly: every local step moves the first layer inside "
        f"the span of the inputs, and replayed training takes out how far the second layer drifted."
    )
    return Identifiability(
        rank=rank, min_samples=max(rank, told or 0), max_samples=told, verdict=verdict, attacks=attacks
    )


def of_regression(evidence: tuple[Observation, ...], attacks: tuple[Applicability, ...]) -> Identifiability:
    """For a linear model under squared error: what its moments determine."""
    visits, loss, span = measure(evidence)
    if span is None:
        verdict = "Nothing: the update is zero up to rounding."
        return Identifiability(rank=0, min_samples=0, max_samples=None, verdict=verdict, attacks=attacks)
    try:
        count = count_samples(evidence, visits, span, loss)
    except NotIdentifiable as refusal:
        verdict = f"Nothing certain: {refusal}."
        return Identifiability(
            rank=span.rank, min_samples=span.rank, max_samples=None, verdict=verdict, attacks=attacks
        )
    knowledge = evidence[0].knowledge
    known = "up to the noise" if knowledge.noise_std > 0 else "exactly"
    return Identifiability(
        rank=span.rank,
        min_samples=count.num_samples,
        max_samples=count.num_samples if count.certain else None,
        verdict=_verdict(count, span, known, has_prior=knowledge.input_values is not None),
        attacks=attacks,
    )


def _verdict(count: Count, span: Span, known: str, *, has_prior: bool) -> str:
    number, rank = count.num_samples, span.rank
    if not count.certain:
        so_far = "The visits span" if span.complete else "Every visit so far added a dimension: they span"
        follow = f"follow {known}" if rank <= 2 or has_prior else "are known up to a rotation"
        more = "" if span.complete else " One more visit tells more."
        return (
            f"{so_far} {rank} dimension(s), so there are at least {rank} samples ({count.reason}). If there "
            f"are {rank} and no more, they {follow}.{more}"
        )
    if rank == 1:
        return f"{number} equal input(s), {known}, and the mean of their targets."
    if number == rank == 2:
        return f"Both samples, {known}, inputs and targets."
    how = (
        "the declared values single them out if only one data set fits"
        if has_prior
        else (
            f"the samples themselves only up to a rotation of the {number}-dimensional sample space that "
            f"fixes the vector of ones; declare Knowledge(input_values=...) to single them out"
        )
    )
    return f"Number ({number}), mean, second moments and span of the samples, {known}; {how}."


def first_layer_rank(observation: Observation) -> int | None:
    """Numerical rank of the first linear layer's gradient; None where there is none."""
    try:
        weight, bias, _ = first_layer_gradient(observation)
    except ValueError:
        return None
    layer = torch.cat([weight, bias[:, None]], dim=1)
    values = torch.linalg.svdvals(layer)
    return int((values > max(4 * spectral_noise(observation, layer), 1e-7 * float(values[0]))).sum())
