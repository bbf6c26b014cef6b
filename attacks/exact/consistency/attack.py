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

from dataclasses import dataclass
from typing import ClassVar

import torch

from attacks.base import Attack, Claim, NotIdentifiable, Observations
from attacks.exact.consistency.answers import answers
from attacks.exact.consistency.approach import approach
from attacks.exact.consistency.peel import peel


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
    citation: ClassVar[str] = (
        "fedpriv's own method (T3): consistency and peeling of two consecutive linear layers"
    )

    def __post_init__(self) -> None:
        """Check the ranges."""
        for name in ("first_starts", "most_starts", "memory_limit", "patience"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")

    def why_not(self, observations: Observations) -> str | None:
        """See `Attack.why_not`; one visit that can be solved is enough."""
        ways = [approach(observation, raw=True) for observation in observations]
        return None if any(not isinstance(way, str) for way in ways) else str(ways[0])

    def run(self, observations: Observations, *, generator: torch.Generator, deadline: float) -> Claim:
        """See `Attack.run`; of several visits the first that can be solved is taken."""
        for observation in observations:
            way = approach(observation, raw=True)
            if not isinstance(way, str):
                break
        else:
            raise NotIdentifiable(str(way))
        pair, evidence = way
        result = peel(
            evidence,
            generator=generator,
            deadline=deadline,
            first_starts=self.first_starts,
            most_starts=self.most_starts,
            memory_limit=self.memory_limit,
            patience=self.patience,
        )
        rank = evidence.two.rank
        if not len(result.samples):
            raise NotIdentifiable(f"none of {rank} samples was found")
        update = observation.update
        told = update.num_samples or observation.knowledge.num_samples
        answer = answers(evidence, result.samples, told=told, one_client=not update.is_aggregate)
        inputs = (result.samples.coordinates @ evidence.one.rows)[answer.rows]
        partial = (
            () if result.complete else (f"{len(result.samples)} of {rank} different samples were found",)
        )
        return Claim(
            inputs=inputs.reshape(-1, *pair.input_shape),
            targets=answer.targets,
            notes=(*partial, *answer.notes),
            assumed=answer.assumed,
        )
