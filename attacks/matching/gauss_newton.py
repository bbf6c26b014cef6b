"""Damped Gauss-Newton with conjugate gradients: from a rough batch to the precision of the numbers sent.

K. Levenberg 1944, D. Marquardt 1963; each step solves ``min |J d - r|^2 + damping |d|^2`` by CGLS
(M. Hestenes, E. Stiefel, "Methods of Conjugate Gradients for Solving Linear Systems", 1952, section 10), only
as exactly as it pays: R. Dembo, S. Eisenstat, T. Steihaug, "Inexact Newton Methods", SIAM J. Numer. Anal. 19,
1982. Both products with the Jacobian come from one recorded graph.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

NEARLY = 1e3
"""Below this many times the value that is enough, a step that gains little is the last."""
_TIGHTEST = 1e-4
_MANY = 16  # more inner iterations than a share of 1 / 16 of the unknowns are worth a preconditioner

Residual = Callable[[Tensor], Tensor]
"""From a point (N,) to what is left of the equations (M,), differentiable twice."""
Solve = Callable[[Tensor], Tensor]
Precondition = Callable[[Tensor, float, float], Solve | None]
"""From a point (N,), a shift and a deadline to about the inverse of ``J^T J + shift``, or None."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Refined:
    """Where Gauss-Newton ended.

    Parameters
    ----------
    point : Tensor of shape (N,)
        Never worse than the start.
    value : float
        Squared length of the residual there.
    steps, products : int
        Steps, and products with the Jacobian or its transpose.
    """

    point: Tensor
    value: float
    steps: int
    products: int


@dataclass(frozen=True, kw_only=True)
class GaussNewton:
    """Hyperparameters of the refinement.

    Parameters
    ----------
    steps : int, default 60
    damping : float, default 1e-2
        At the start, relative to the Jacobian's size along the first gradient.
    forcing : float, default 0.1
        The inner iteration ends when the slope of the linear problem has fallen by this factor.
    inner : int, default 50
        Inner iterations of a step at first; doubled while the linear model predicts well, up to `most_inner`.
    most_inner : int, default 800
    """

    steps: int = 60
    damping: float = 1e-2
    forcing: float = 0.1
    inner: int = 50
    most_inner: int = 2000

    def __call__(
        self,
        residual: Residual,
        point: Tensor,
        *,
        enough: float = 0.0,
        deadline: float = float("inf"),
        precondition: Precondition | None = None,
    ) -> Refined:
        """Lower ``|residual(point)|^2`` until it is below `enough`, stops falling, or time is up.

        Ctrl-C returns what is there. `precondition` is asked where a step took many inner iterations.

        Examples
        --------
        >>> def circle(p):
        ...     return torch.stack([p.square().sum() - 25.0, p[0] - p[1] + 1.0])
        >>> found = GaussNewton()(circle, torch.tensor([1.0, 1.0], dtype=torch.float64))
        >>> [round(v, 6) for v in found.point.tolist()]
        [3.0, 4.0]
        """
        run = _Run(residual, point.detach(), self.damping, self.inner)
        forcing = self.forcing
        try:
            while run.steps < self.steps and run.value > enough and time.perf_counter() < deadline:
                before = run.value
                hit_cap = run.step(forcing, enough, deadline)
                if precondition is not None and run.predicted_well and run.taken > len(point) / _MANY:
                    run.solve = precondition(run.point, run.damping * run.scale, deadline)
                if not run.value < before or (run.value > 0.5 * before and run.value < NEARLY * enough):
                    break
                if run.predicted_well and hit_cap:
                    run.inner = min(2 * run.inner, self.most_inner)
                elif run.predicted_well and run.value > 0.3 * before:
                    if forcing <= _TIGHTEST and run.value > 0.9 * before:
                        break
                    forcing = max(0.3 * forcing, _TIGHTEST)  # solved too loosely to gain more
        except KeyboardInterrupt:
            pass
        return Refined(point=run.point, value=run.value, steps=run.steps, products=run.products)


@dataclass(eq=False)
class _Run:
    """The moving parts of one refinement."""

    residual: Residual
    point: Tensor
    damping: float
    inner: int
    steps: int = 0
    products: int = 0
    scale: float = 0.0
    predicted_well: bool = False
    taken: int = 0
    solve: Solve | None = None
    left: Tensor = field(init=False)
    leaf: Tensor = field(init=False)
    value: float = field(init=False)

    def __post_init__(self) -> None:
        self.leaf, self.left = self._record(self.point)
        self.value = _square(self.left)

    def _record(self, point: Tensor) -> tuple[Tensor, Tensor]:
        leaf = point.detach().requires_grad_()
        with torch.enable_grad():
            return leaf, self.residual(leaf)

    def step(self, forcing: float, enough: float, deadline: float) -> bool:
        """One step with as much damping as it takes; whether the inner iteration ended at its cap."""
        direction, predicted, hit_cap = self._solve(forcing, enough, deadline)
        self.steps += 1
        for _ in range(12):
            leaf, left = self._record(self.point + direction)
            value = _square(left)
            if value < self.value:
                break
            direction, self.damping = direction / 4, self.damping * 4
        else:
            return hit_cap
        self.predicted_well = self.value - value > 0.7 * (self.value - predicted)
        if self.predicted_well:
            self.damping /= 5
        self.point, self.leaf, self.left, self.value = leaf.detach(), leaf, left, value
        return hit_cap

    def _solve(self, forcing: float, enough: float, deadline: float) -> tuple[Tensor, float, bool]:
        """CGLS on the linear problem at this point: direction, predicted value, whether the cap was hit."""
        weights = torch.zeros_like(self.left, requires_grad=True)
        with torch.enable_grad():
            pulled = torch.autograd.grad(self.left, self.leaf, weights, create_graph=True)[0]
        rest = -self.left.detach()
        slope = self._pull(rest)
        along = slope if self.solve is None else self.solve(slope)
        direction = torch.zeros_like(slope)
        power = start = float(slope @ along)
        self.taken = 0
        while self.taken < self.inner:
            self.taken += 1
            image = torch.autograd.grad(pulled, weights, along, retain_graph=True)[0]
            self.products += 2
            if not self.scale:
                self.scale = _square(image) / max(_square(along), 1e-300)
            shift = self.damping * self.scale
            length = power / max(_square(image) + shift * _square(along), 1e-300)
            direction, rest = direction + length * along, rest - length * image
            slope = self._pull(rest) - shift * direction
            turned = slope if self.solve is None else self.solve(slope)
            previous, power = power, float(slope @ turned)
            if power <= forcing**2 * start or _square(rest) <= 0.1 * enough or time.perf_counter() > deadline:
                return direction, _square(rest), False
            along = turned + power / previous * along
        return direction, _square(rest), True

    def _pull(self, vector: Tensor) -> Tensor:
        return torch.autograd.grad(self.left, self.leaf, vector, retain_graph=True)[0]


def _square(vector: Tensor) -> float:
    return float(vector.detach().square().sum())
