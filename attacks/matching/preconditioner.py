"""The normal matrix of a matching problem, factored, as a preconditioner of Gauss-Newton's inner iteration.

Near a solution conjugate gradients need thousands of products with the Jacobian, because its condition number
is squared. Here all columns of the Jacobian are computed together, in float32; where there are far more
equations than unknowns, those of the largest parameters are mixed by a sparse random sketch (K. Clarkson,
D. Woodruff, "Low Rank Approximation and Regression in Input Sparsity Time", STOC 2013); and the Cholesky
factor of the small normal matrix preconditions (as in H. Avron, P. Maymounkov, S. Toledo, "Blendenpik:
Supercharging LAPACK's Least-Squares Solver", SIAM J. Sci. Comput. 32, 2010). The answer
stays that of the exact Jacobian.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.func import jvp, vmap

from attacks.matching.problem import Problem
from attacks.matching.unknowns import Unknowns
from attacks.replay import REPLAY_ERRORS

LARGEST = 4096
"""Up to this many unknowns; the memory grows with the square."""
EQUATIONS = 3
"""Kept for each unknown."""
_SLOW = 2e10  # multiplications per second that any machine manages, to judge whether time is left

Solve = Callable[[Tensor], Tensor]
"""From a right-hand side (N,) to about ``(J^T J + shift)^-1`` times it."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Preconditioner:
    """Makes the approximate inverse of the normal matrix at a point.

    Parameters
    ----------
    problem : Problem
    unknowns : Unknowns
    chunk : int, default 256
        Columns of the Jacobian that are computed together.
    """

    problem: Problem
    unknowns: Unknowns
    chunk: int = 256

    def __call__(self, point: Tensor, shift: float, deadline: float = float("inf")) -> Solve | None:
        """The solver at `point` (N,), or None where it does not pay or the time left is too short.

        `shift` is added to the diagonal, in the units of `attacks.matching.compose.difference`.
        """
        size = len(point)
        sizes = [o.numel() for o in self.problem.observed]
        if not size <= LARGEST or sum(sizes) < size:
            return None
        kept = min(sum(sizes), EQUATIONS * size)
        if time.perf_counter() + size**2 * kept / _SLOW > deadline:
            return None
        try:
            rows = self._jacobian(point, deadline)
        except REPLAY_ERRORS:  # an operation without forward derivatives or without a batching rule
            return None
        return None if rows is None else _solver(_gram(rows), shift)

    def _jacobian(self, point: Tensor, deadline: float) -> Tensor | None:
        """The transposed Jacobian (N, equations) in float32, sketched; None if time is up."""
        observed = tuple(o.float() for o in self.problem.observed)
        problem = replace(self.problem, observed=observed, dtype=torch.float32)
        here, norm = point.float(), self.problem.norm
        sketch = Sketch.of([o.numel() for o in observed], EQUATIONS * len(point), like=here)

        def gradients(at: Tensor) -> tuple[Tensor, ...]:
            inputs, targets = self.unknowns.split(at[None])
            targets = targets.float() if targets.is_floating_point() else targets
            return tuple(problem.pure_gradients(inputs[0], targets[0]))

        def column(direction: Tensor) -> tuple[Tensor, ...]:
            slopes: tuple[Tensor, ...] = jvp(gradients, (here,), (direction,))[1]
            return slopes

        parts = []
        for start in range(0, len(here), self.chunk):
            if time.perf_counter() > deadline:
                return None
            directions = torch.zeros(min(self.chunk, len(here) - start), len(here), device=here.device)
            directions[:, start:].fill_diagonal_(1.0)
            parts.append(sketch(vmap(column)(directions)) / norm)
        return torch.cat(parts)


@dataclass(frozen=True, eq=False)
class Sketch:
    """Sums of equations with random signs; a small parameter keeps every equation of its own.

    Parameters
    ----------
    places : tuple of (Tensor, Tensor, int) or None
        For each parameter: where each entry goes, its sign, and into how many sums; None keeps all entries.
    """

    places: tuple[tuple[Tensor, Tensor, int] | None, ...]

    @classmethod
    def of(cls, sizes: list[int], equations: int, *, like: Tensor) -> Sketch:
        """At most about `equations` sums for parameters of these sizes.

        Examples
        --------
        >>> sketch = Sketch.of([3, 100], 23, like=torch.zeros(1))
        >>> sketch([torch.ones(2, 3), torch.ones(2, 10, 10)]).shape
        torch.Size([2, 23])
        """
        limit = max(sizes)
        for count, size in enumerate(sorted(sizes)):
            below = sum(sorted(sizes)[:count])
            share = (equations - below) // (len(sizes) - count)
            if share < size:
                limit = max(share, 1)
                break
        generator = torch.Generator().manual_seed(0)
        places: list[tuple[Tensor, Tensor, int] | None] = []
        for size in sizes:
            where = torch.randint(limit, (size,), generator=generator).to(like.device)
            signs = (2.0 * torch.randint(2, (size,), generator=generator) - 1).to(like)
            places.append(None if size <= limit else (where, signs, limit))
        return cls(tuple(places))

    def __call__(self, columns: tuple[Tensor, ...] | list[Tensor]) -> Tensor:
        """From one tensor (columns, *parameter shape) for each parameter to (columns, sums)."""
        parts = []
        for tensor, place in zip(columns, self.places, strict=True):
            flat = tensor.reshape(len(tensor), -1)
            if place is not None:
                where, signs, count = place
                flat = flat.new_zeros(len(flat), count).index_add_(1, where, flat * signs)
            parts.append(flat)
        return torch.cat(parts, dim=1)


def _gram(rows: Tensor, block: int = 768) -> Tensor:
    """``rows @ rows.T``, each pair of blocks once."""
    result = rows.new_empty(len(rows), len(rows))
    for i in range(0, len(rows), block):
        product = rows[i : i + block] @ rows[: i + block].T
        result[i : i + block, : i + block] = product
        result[: i + block, i : i + block] = product.T
    return result


def _solver(normal: Tensor, shift: float) -> Solve | None:
    """The inverse by Cholesky; the shift is raised where rounding left the matrix indefinite."""
    matrix = normal.double()
    floor = max(shift, 1e-7 * float(matrix.diagonal().mean()))
    for _ in range(4):
        shifted = matrix.clone()
        shifted.diagonal().add_(floor)
        factor, wrong = torch.linalg.cholesky_ex(shifted)
        if not int(wrong):
            return _Triangles(factor.float())
        floor *= 100
    return None


@dataclass(frozen=True, eq=False)
class _Triangles:
    """Two triangular solves with one right-hand side; `torch.cholesky_solve` takes ten times as long."""

    factor: Tensor

    def __call__(self, vector: Tensor) -> Tensor:
        half = torch.linalg.solve_triangular(self.factor, vector.to(self.factor)[:, None], upper=False)
        whole = torch.linalg.solve_triangular(self.factor.T, half, upper=True)
        solved: Tensor = whole[:, 0].to(vector)
        return solved
