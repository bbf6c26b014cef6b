"""Consistency and peeling: whole batches, exactly, through any elementwise activation.

Our own method; see the documentation for its derivation. Two consecutive linear layers at the input of a
model, n samples, widths above about 2 n. Every input lies in the row space of the first weight gradient and,
because of the bias gradient, on a hyperplane in it; every activation lies in the row space of the second
weight gradient. That is more equations than unknowns for a *single* sample, so each sample is a solution of
its own, found by Gauss-Newton and verified on its own (consistency). Only with its true target does a
sample's backward signal lie in the column spaces; with it the sample is taken out of the problem, which gets
easier (peeling).
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import ClassVar

import torch

from attacks.base import Attack, Claim, NotIdentifiable, Observations
from attacks.exact.consistency.answers import answers
from attacks.exact.consistency.approach import Visit, solvable
from attacks.exact.consistency.peel import Peeled, peel
from attacks.exact.consistency.problem import Evidence
from attacks.exact.consistency.rounds import joined, plans


@dataclass(frozen=True, kw_only=True)
class ConsistencyPeeling(Attack):
    """Recover a whole batch from the gradients of the first two linear layers; its size need not be known.

    Parameters
    ----------
    first_starts, most_starts : int, default 32, 256
        Starting points of the first round of the search, and the most of any later one.
    memory_limit : float, default 5e8
        Bytes that the search may use.
    patience : int, default 12
        Rounds of the search without anything new before it ends.

    Examples
    --------
    >>> import fedpriv
    >>> draw = torch.Generator().manual_seed(0)
    >>> model = fedpriv.models.mlp([12, 32, 24, 3], activation=torch.nn.GELU, generator=draw).double()
    >>> x, y = torch.rand(4, 12, generator=draw).double(), torch.tensor([2, 0, 1, 0])
    >>> loss = torch.nn.functional.cross_entropy
    >>> gradient = torch.autograd.grad(loss(model(x), y), model.parameters())
    >>> known = fedpriv.Knowledge(input_shape=(12,))
    >>> found = ConsistencyPeeling()(fedpriv.Observation(model, gradient, loss, known))
    >>> bool(torch.cdist(found.inputs, x).amin(0).max() < 1e-9), sorted(found.targets.tolist())
    (True, [0, 0, 1, 2])
    """

    first_starts: int = 32
    most_starts: int = 256
    memory_limit: float = 5e8
    patience: int = 12
    name: ClassVar[str] = "consistency and peeling"
    citation: ClassVar[str] = "fedpriv's own method: consistency and peeling of two consecutive linear layers"

    def __post_init__(self) -> None:
        """Check the ranges."""
        for name in ("first_starts", "most_starts", "memory_limit", "patience"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")

    def why_not(self, observations: Observations) -> str | None:
        """See `Attack.why_not`; one visit that can be solved is enough, or several that can be together."""
        visits = solvable(observations)
        return visits if isinstance(visits, str) else None

    def run(self, observations: Observations, *, generator: torch.Generator, deadline: float) -> Claim:
        """See `Attack.run`; of several choices of visits the first that gives the whole batch is taken."""
        visits = solvable(observations)
        if isinstance(visits, str):
            raise NotIdentifiable(visits)
        evidences = [v.evidence for v in visits]
        choices = plans(evidences)
        best: tuple[tuple[int, ...], Evidence, Peeled] | None = None
        for left, plan in zip(range(len(choices) - 1, -1, -1), choices, strict=True):
            now = time.perf_counter()
            evidence = joined([evidences[i] for i in plan])
            until = deadline if not left else now + (deadline - now) / 2
            result = self._peel(evidence, generator, until)
            if best is None or len(result.samples) > len(best[2].samples):
                best = plan, evidence, result
            if result.complete or time.perf_counter() > deadline:
                break
        assert best is not None  # there is at least one choice
        plan, evidence, result = best
        if not len(result.samples):
            raise NotIdentifiable(f"none of {evidence.two.rank} samples was found{_nowhere(visits, choices)}")
        return _claim(visits, plan, evidence, result)

    def _peel(self, evidence: Evidence, generator: torch.Generator, deadline: float) -> Peeled:
        return peel(
            evidence,
            generator=generator,
            deadline=deadline,
            first_starts=self.first_starts,
            most_starts=self.most_starts,
            memory_limit=self.memory_limit,
            patience=self.patience,
        )


def _nowhere(visits: list[Visit], choices: list[tuple[int, ...]]) -> str:
    """What else is to be said where several visits gave nothing."""
    if len(visits) == 1:
        return ""
    return f" in any of {len(choices)} choices of the {len(visits)} visits: do their models belong to them?"


def _claim(visits: list[Visit], plan: tuple[int, ...], evidence: Evidence, result: Peeled) -> Claim:
    first = visits[plan[0]]
    update, samples = first.observation.update, result.samples
    told = update.num_samples or first.observation.knowledge.num_samples
    answer = answers(evidence, samples, told=told, one_client=not update.is_aggregate)
    inputs = (samples.coordinates @ evidence.one.rows)[answer.rows]
    notes = []
    if len(plan) > 1:
        notes.append(f"{len(plan)} visits that show the same samples were solved together")
    if not result.complete:
        notes.append(f"{len(samples)} of {evidence.two.rank} different samples were found")
    return Claim(
        inputs=inputs.reshape(-1, *first.pair.input_shape),
        targets=answer.targets,
        notes=(*notes, *answer.notes),
        assumed=answer.assumed,
    )
