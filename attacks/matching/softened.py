"""Rows of a table as a smooth function of free numbers: categories by softmax, numbers by a sigmoid.

M. Vero, M. Balunović, D. I. Dimitrov, M. Vechev, "TabLeak: Tabular Data Leakage in Federated Learning",
ICML 2023, https://arxiv.org/abs/2210.01785, for the softmax. `solve_numbers` is ours.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from attacks.matching.compose import difference
from attacks.matching.gauss_newton import NEARLY, GaussNewton
from attacks.matching.objectives import Cosine
from attacks.matching.optimizers import signed_adam
from attacks.matching.problem import Problem
from attacks.matching.schedules import CosineDecay
from attacks.matching.search import search
from fedpriv.wire.table import TableSchema

SOLVED_STARTS, SOLVED_STEPS = 4, 150
"""The short search before the numbers are solved for."""


@dataclass(frozen=True, eq=False)
class Softened:
    """Cosine distance as a function of logits; a `Function` of `attacks.matching.search`.

    Parameters
    ----------
    problem : Problem
    labels : Tensor of shape (n,)
    schema : TableSchema
    temperature : float
    """

    problem: Problem
    labels: Tensor
    schema: TableSchema
    temperature: float

    def __call__(self, points: Tensor, progress: float = 0.0) -> Tensor:
        """See the class; shape (K, N) to (K,)."""
        del progress
        return self.objective_at(self.rows(points))

    def rows(self, points: Tensor) -> Tensor:
        """Points (K, n * width) to softened rows (K, n, width)."""
        free = points.reshape(len(points), -1, self.schema.width)
        parts: list[Tensor] = []
        low, high = (bound.to(free) for bound in self.schema.bounds)
        order = {place: index for index, place in enumerate(self.schema.numbers)}
        for place in self.schema.places:
            if place.start in order:
                index = order[place.start]
                span = high[index] - low[index]
                parts.append(low[index] + span * torch.sigmoid(free[..., place]))
            else:
                parts.append(torch.softmax(free[..., place] / self.temperature, dim=-1))
        return torch.cat(parts, dim=-1)

    def objective_at(self, rows: Tensor) -> Tensor:
        """Softened or valid rows (K, n, width) to values (K,)."""
        inputs = rows.reshape(*rows.shape[:2], *self.problem.input_shape)
        targets = self.labels.expand(len(rows), *self.labels.shape)
        return Cosine()(self.problem.stacked_gradients(inputs, targets), self.problem.observed)


@dataclass(frozen=True, eq=False)
class Numbers:
    """Difference of the gradients as a function of the numbers alone; a `Function` of the search.

    Parameters
    ----------
    problem : Problem
    labels : Tensor of shape (n,)
    schema : TableSchema
    rows : Tensor of shape (n, width)
        Valid rows, whose categories are kept.
    """

    problem: Problem
    labels: Tensor
    schema: TableSchema
    rows: Tensor

    def __call__(self, points: Tensor, progress: float = 0.0) -> Tensor:
        """Squared difference relative to the observed gradient; shape (K, N) to (K,)."""
        del progress
        inputs = torch.stack([self.filled(point) for point in points])
        inputs = inputs.reshape(*inputs.shape[:2], *self.problem.input_shape)
        targets = self.labels.expand(len(points), *self.labels.shape)
        found = self.problem.stacked_gradients(inputs, targets)
        pairs = zip(found, self.problem.observed, strict=True)
        squares = torch.stack([(g - o).flatten(1).square().sum(1) for g, o in pairs])
        return squares.sum(0) / self.problem.norm**2

    @property
    def point(self) -> Tensor:
        """The numbers of `rows`."""
        return self.rows[:, list(self.schema.numbers)].reshape(-1)

    def filled(self, point: Tensor) -> Tensor:
        """`rows` with other numbers."""
        where = torch.tensor(self.schema.numbers, dtype=torch.int64, device=point.device)
        return self.rows.index_copy(1, where, point.reshape(len(self.rows), -1))

    def residual(self, point: Tensor) -> Tensor:
        """The difference as a vector."""
        inputs = self.filled(point).reshape(-1, *self.problem.input_shape)
        return difference(self.problem, inputs, self.labels)


def solve_numbers(unknown: Numbers, *, generator: torch.Generator, deadline: float) -> Tensor | None:
    """The rows with their categories kept and their numbers solved for, if that explains the update.

    Few unknowns are left once the categories are right, so Gauss-Newton takes the numbers to the rounding of
    the update; where kinks of the model are in the way, a short search goes first. If a category is wrong no
    numbers explain the update, and this is seen without the truth.

    Parameters
    ----------
    unknown : Numbers
    generator : torch.Generator
        Draws the starts of the short search.
    deadline : float
        In terms of ``time.perf_counter()``.

    Returns
    -------
    Tensor of shape (n, width) or None
        None if what is left is more than rounding.
    """
    problem, point = unknown.problem, unknown.point
    epsilon = max(torch.finfo(problem.observation.update.tensors[n].dtype).eps for n in problem.names)
    enough = 16 * epsilon**2
    if not len(point):
        return unknown.rows if float(unknown(point[None])) <= NEARLY * enough else None
    newton = GaussNewton(steps=20)
    found = newton(unknown.residual, point, enough=enough, deadline=deadline)
    if found.value > NEARLY * enough:
        spread = torch.randn(SOLVED_STARTS, len(point), generator=generator, dtype=torch.float64)
        spread[0] = 0
        nearer = search(
            unknown,
            point + 0.1 * spread.to(point),
            optimizer=signed_adam(),
            rate=0.03,
            steps=SOLVED_STEPS,
            schedule=CosineDecay(),
            deadline=deadline,
            describe="numbers",
        )
        found = newton(unknown.residual, nearer.point, enough=enough, deadline=deadline)
    return unknown.filled(found.point) if found.value <= NEARLY * enough else None
