"""TabLeak: tables, whose categories are softened during the search, out of several searches that vote.

M. Vero, M. Balunović, D. I. Dimitrov, M. Vechev, "TabLeak: Tabular Data Leakage in Federated Learning",
ICML 2023, https://arxiv.org/abs/2210.01785. Three parts. Instead of one-hot groups their logits are sought,
``x = softmax(z / T)``, and continuous columns through a sigmoid between their bounds, so that every point of
the search is a mixture of valid rows. Several searches start independently; their rows are brought into one
order by optimal assignment and pooled. How much the searches disagree about a cell, as an entropy, says how
far to trust it, without the truth.

We depart from it in seven points. Labels are read from the last layer unless they are told. All searches run
at once. The step size falls along a cosine. Rows are aligned by distance, not by counting cells outside a
tolerance, and only with rows of the same label. Categories are pooled by the mean of the softmax and numbers
by the median; the authors' code takes the median of both. Only searches vote whose valid rows explain the
update almost as well as the best one's (`trust`): one that arrived is not outvoted by seven that did not. At
last `run` keeps the categories and solves for the numbers: where that explains the update to rounding, the
rows are exact.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from attacks.base import Claim, Observations
from attacks.matching.compose import MatchingAttack, known_labels, precise
from attacks.matching.optimizers import signed_adam
from attacks.matching.pooling import align, pool
from attacks.matching.problem import Problem
from attacks.matching.schedules import CosineDecay, Schedule
from attacks.matching.search import Search, search
from attacks.matching.softened import Numbers, Softened, solve_numbers
from attacks.threads import one_thread
from fedpriv.wire import Observation


@dataclass(frozen=True, eq=False, kw_only=True)
class Ensemble:
    """What several searches say together, and how far they agree.

    Parameters
    ----------
    members : Tensor of shape (K, n, width)
        What each search found, rows in the order of `inputs`; softened, not yet valid.
    values : Tensor of shape (K,)
        Objective of each, made valid.
    votes : bool Tensor of shape (K,)
        Which of them were pooled.
    inputs : Tensor of shape (n, width)
        The pooled rows, valid.
    targets : Tensor of shape (n,)
    entropy : Tensor of shape (n, columns), float64
        Doubt about each cell, 0 where all votes agree. Categorical cells: entropy of the pooled
        probabilities, divided by its maximum. Continuous cells: the standard deviation over the votes in
        units of the column's own, at most 1 (the paper reports the entropy of a Gaussian, which is its
        logarithm up to a constant).
    notes : tuple of str
    """

    members: Tensor
    values: Tensor
    votes: Tensor
    inputs: Tensor
    targets: Tensor
    entropy: Tensor
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class TabLeak(MatchingAttack):
    """Rows of a table by a softened search and a vote (Vero et al. 2023).

    The observation has to say which coordinates are which column: ``Knowledge(table=TableSchema(...))``.

    Parameters
    ----------
    members : int, default 8
        Independent searches; the paper takes 30. With 1 there is no pooling.
    steps : int, default 1000
        Iterations of each; the paper takes 1500.
    rate : float, default 0.06
        Step size, the paper's.
    temperature : float, default 1.0
        T of the softmax; that of the authors' code.
    trust : float, default 1.5
        A search votes if its objective is at most this many times the best one's.
    labels : tuple of int, optional
        Class labels of the batch, if they are told, as the paper's main experiments assume; else they are
        read from the last layer. One wrong label can spoil all rows.
    schedule : Schedule, default CosineDecay()
        The authors' code keeps the step size constant.

    Examples
    --------
    >>> import fedpriv
    >>> from fedpriv.wire.table import Categorical, Continuous
    >>> schema = fedpriv.wire.table.TableSchema(
    ...     (
    ...         Categorical(name="color", values=("red", "green", "blue")),
    ...         Continuous(name="size", low=-2, high=2, mean=0, std=1),
    ...     )
    ... )
    >>> model = fedpriv.models.mlp([4, 20, 20, 2])
    >>> x, y = schema.encode([("blue", 0.5)]), torch.tensor([1])
    >>> loss = torch.nn.functional.cross_entropy
    >>> gradient = torch.autograd.grad(loss(model(x), y), model.parameters())
    >>> known = fedpriv.Knowledge(num_samples=1, table=schema)
    >>> seen = fedpriv.Observation(model, gradient, loss, known)
    >>> found = TabLeak(members=3, steps=200)(seen)
    >>> schema.decode(found.inputs.round(decimals=4)), found.certified
    ([('blue', 0.5)], tensor([True]))
    """

    members: int = 8
    steps: int = 1000
    rate: float = 0.06
    temperature: float = 1.0
    trust: float = 1.5
    labels: tuple[int, ...] | None = None
    schedule: Schedule = field(default_factory=CosineDecay)
    name: ClassVar[str] = "TabLeak"
    citation: ClassVar[str] = "Vero et al., TabLeak, ICML 2023"

    def __post_init__(self) -> None:
        """Check the ranges."""
        for name in ("members", "steps", "rate", "temperature"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        if not self.trust >= 1:
            raise ValueError(f"trust must be 1 or more, or the best search does not vote, got {self.trust}")

    def why_not(self, observations: Observations) -> str | None:
        """See `Attack.why_not`; of several visits the last one is taken."""
        table = observations[-1].knowledge.table
        if table is None:
            return "which coordinates are the columns of a table was not declared; set Knowledge.table"
        reason = super().why_not(observations)
        if reason is not None:
            return reason
        problem = Problem.of(observations[-1])
        shape = problem.input_shape
        if math.prod(shape) != table.width:
            return (
                f"Knowledge.table describes rows of {table.width} numbers, but the model reads "
                f"{math.prod(shape)}; declare the table that this model was made for"
            )
        if self.labels is not None and len(self.labels) != problem.num_samples:
            return f"{len(self.labels)} labels were told for a batch of {problem.num_samples}"
        return None

    def run(self, observations: Observations, *, generator: torch.Generator, deadline: float) -> Claim:
        """See `Attack.run`; of several visits the last one is taken."""
        observation = observations[-1]
        found = self.ensemble(observation, generator=generator, deadline=deadline)
        problem = Problem.of(observation, dtype=precise(observation))
        inputs = self._exact(problem, found, generator, deadline)
        return Claim(
            inputs=inputs.reshape(-1, *problem.input_shape), targets=found.targets, notes=found.notes
        )

    def _exact(
        self, problem: Problem, found: Ensemble, generator: torch.Generator, deadline: float
    ) -> Tensor:
        """Rows that explain the update to rounding, from the vote or the best search; else the vote."""
        table = problem.observation.knowledge.table
        assert table is not None  # `ensemble` refuses before
        best = table.nearest(found.members[int(found.values.argmin())])
        for rows in (found.inputs, best):
            unknown = Numbers(problem, found.targets, table, rows.to(problem.observed[0]))
            solved = solve_numbers(unknown, generator=generator, deadline=deadline)
            if solved is not None:
                return solved
        return found.inputs

    @one_thread()
    def ensemble(
        self, observation: Observation, *, generator: torch.Generator, deadline: float = float("inf")
    ) -> Ensemble:
        """Search and pool; `run` claims the pooled rows, this also gives the doubt about each cell.

        Parameters
        ----------
        observation : Observation
        generator : torch.Generator
            Draws the starts.
        deadline : float
            In terms of ``time.perf_counter()``.
        """
        table = observation.knowledge.table
        if table is None:
            raise ValueError("the columns of the table are not declared; set Knowledge.table")
        problem = Problem.of(observation)
        labels, notes = self._labels(problem)
        softened = Softened(problem, labels, table, self.temperature)
        size = problem.num_samples * table.width
        # Uniform in [-1, 1], as the authors start.
        starts = 2 * torch.rand(self.members, size, generator=generator, dtype=torch.float64) - 1
        found = self._search(softened, starts.to(problem.observed[0]), deadline)
        members = softened.rows(found.best_points)
        # An exact match leaves only rounding, which may be negative.
        values = softened.objective_at(table.nearest(members)).clamp_min(torch.finfo(problem.dtype).eps)
        members = align(members, members[int(values.argmin())], labels, table)
        votes = values <= self.trust * values.min()
        inputs, entropy = pool(members[votes], table)
        return Ensemble(
            members=members,
            values=values,
            votes=votes,
            inputs=inputs,
            targets=labels,
            entropy=entropy,
            notes=notes,
        )

    def _labels(self, problem: Problem) -> tuple[Tensor, tuple[str, ...]]:
        if self.labels is None:
            return known_labels(problem)
        told = torch.tensor(self.labels, dtype=torch.int64, device=problem.device)
        return told, ("the labels were told, not found",)

    def _search(self, softened: Softened, points: Tensor, deadline: float) -> Search:
        return search(
            softened,
            points,
            optimizer=signed_adam(),
            rate=self.rate,
            steps=self.steps,
            schedule=self.schedule,
            deadline=deadline,
            describe=self.name,
        )
