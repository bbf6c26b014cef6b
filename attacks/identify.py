"""What can be recovered from an observation, said before any attack runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from attacks.adaptive.choose import for_mechanisms
from attacks.base import Attack, NotIdentifiable, as_evidence
from attacks.exact.consistency import ConsistencyPeeling
from attacks.exact.consistency.approach import solvable
from attacks.exact.consistency.rounds import plans
from attacks.exact.count import Count, count_samples, measure, told_count
from attacks.exact.dager import TokenSpanInversion
from attacks.exact.first_layer import FirstLayerInversion, first_layer_gradient, spectral_noise
from attacks.exact.layers import LayerByLayerInversion
from attacks.exact.local_steps import LocalStepsInversion
from attacks.exact.local_steps.change import first_layer
from attacks.exact.moments import Span
from attacks.exact.regression import MomentInversion
from attacks.exact.sparse import SparseBatchInversion
from attacks.matching.blocks import BlockwiseInversion
from attacks.matching.fedavg import FedAvgInversion
from attacks.matching.idlg import IDLG
from attacks.matching.inverting_gradients import InvertingGradients
from attacks.matching.tableak import TabLeak
from attacks.threads import one_thread
from fedpriv.wire import Observation

ATTACKS: tuple[type[Attack], ...] = (
    FirstLayerInversion,
    MomentInversion,
    ConsistencyPeeling,
    SparseBatchInversion,
    LocalStepsInversion,
    LayerByLayerInversion,
    TokenSpanInversion,
    BlockwiseInversion,
    TabLeak,
    IDLG,
    InvertingGradients,
    FedAvgInversion,
)
"""The plain attacks that `attacks.reconstruct` tries, in this order; `attacks.adaptive` has the informed."""


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


@one_thread()
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
    >>> gradient = torch.autograd.grad(value, model.parameters())
    >>> report = identifiability(fedpriv.Observation(model, gradient, loss))
    >>> report.rank, report.attacks[0].attack.name, report.attacks[0].applies
    (1, 'first-layer inversion', True)
    """
    evidence = as_evidence(observations)
    plain = tuple(Applicability(attack=a, reason=a().why_not(evidence)) for a in ATTACKS)
    informed = tuple(
        Applicability(attack=type(a), reason=a.why_not(evidence)) for a in for_mechanisms(evidence)
    )
    attacks = informed + plain
    told = told_count(evidence)
    if chosen := next((a.attack for a in informed if a.applies), None):
        return _behind_a_defense(evidence, chosen, attacks, told)
    usable = {a.attack for a in plain if a.applies}
    if MomentInversion in usable and (len(evidence) > 1 or FirstLayerInversion not in usable):
        return _of_regression(evidence, attacks)
    if FirstLayerInversion in usable:
        noisy = any(o.knowledge.noise_std > 0 for o in evidence)
        verdict = (
            f"One sample, {'up to the noise' if noisy else 'exactly'}: the weight gradient of the first "
            f"linear layer divided by its bias gradient."
        )
        return Identifiability(rank=1, min_samples=1, max_samples=1, verdict=verdict, attacks=attacks)
    if ConsistencyPeeling in usable:
        return _of_batch(evidence, attacks, told)
    if LocalStepsInversion in usable:
        return _of_local_steps(evidence, attacks, told)
    rank = _first_layer_rank(evidence[-1])
    if SparseBatchInversion in usable:
        verdict = (
            f"A batch of {rank} different samples, exactly, if the search ends in time: backward signals in "
            f"front of a ReLU are the sparse vectors in the column space of the first layer's gradient."
        )
        return Identifiability(
            rank=rank,
            min_samples=max(rank or 1, told or 0),
            max_samples=told,
            verdict=verdict,
            attacks=attacks,
        )
    reasons = "; ".join(f"{a.attack.name}: {a.reason}" for a in attacks)
    verdict = f"No attack applies ({reasons})."
    for entry in attacks:
        if entry.applies:
            purpose = (entry.attack.__doc__ or "").strip().partition("\n")[0]
            verdict = f"{entry.attack.name[:1].upper()}{entry.attack.name[1:]} can be tried: {purpose}"
            break
    return Identifiability(
        rank=rank,
        min_samples=max(1 if rank is None else rank, told or 0),
        max_samples=told,
        verdict=verdict,
        attacks=attacks,
    )


def _behind_a_defense(
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


def _of_batch(
    evidence: tuple[Observation, ...], attacks: tuple[Applicability, ...], told: int | None
) -> Identifiability:
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


def _of_local_steps(
    evidence: tuple[Observation, ...], attacks: tuple[Applicability, ...], told: int | None
) -> Identifiability:
    seen = [first_layer(observation) for observation in evidence]
    rank = max(layer[0].rank for layer in seen if not isinstance(layer, str))
    verdict = (
        f"A whole batch of {rank} different samples, exactly: every local step moves the first layer inside "
        f"the span of the inputs, and replayed training takes out how far the second layer drifted."
    )
    return Identifiability(
        rank=rank, min_samples=max(rank, told or 0), max_samples=told, verdict=verdict, attacks=attacks
    )


def _of_regression(evidence: tuple[Observation, ...], attacks: tuple[Applicability, ...]) -> Identifiability:
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


def _first_layer_rank(observation: Observation) -> int | None:
    try:
        weight, bias, _ = first_layer_gradient(observation)
    except ValueError:
        return None
    layer = torch.cat([weight, bias[:, None]], dim=1)
    values = torch.linalg.svdvals(layer)
    return int((values > max(4 * spectral_noise(observation, layer), 1e-7 * float(values[0]))).sum())
