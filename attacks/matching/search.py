"""The search loop: several starts at once, bad ones dropped early, the best kept, stoppable and resumable."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor
from tqdm import tqdm

from attacks.matching.optimizers import Memory, Optimizer
from attacks.matching.schedules import Constant, Schedule


class Function(Protocol):
    """What is minimized: points (K, N) and progress in [0, 1] to values (K,), differentiable in the points.

    A start's value depends on that start alone, or holds the others fixed.
    """

    def __call__(self, points: Tensor, progress: float = 0.0) -> Tensor:
        """See the class."""
        ...


@dataclass(frozen=True, eq=False, kw_only=True)
class Search:
    """Where a search stands; hand it to `search` again and it goes on.

    Parameters
    ----------
    step : int
        Steps that were made.
    memory : dict of str to Tensor
        The optimizer's, for the starts that are still there.
    starts : tuple of int
        Which ones these are.
    best_points : Tensor of shape (K, N)
        The best point of each of them so far.
    best_values : Tensor of shape (K,)
        Their values.
    history : tuple of (int, float)
        Step and best value, at every improvement that was looked at.
    stopped : str
        Why the loop ended: ``"done"``, ``"paused"``, ``"time"``, ``"interrupted"`` or ``"converged"``.
    """

    step: int
    memory: Memory
    starts: tuple[int, ...]
    best_points: Tensor
    best_values: Tensor
    history: tuple[tuple[int, float], ...] = ()
    stopped: str = ""

    @property
    def value(self) -> float:
        """The best value of all."""
        return float(self.best_values.min())

    @property
    def point(self) -> Tensor:
        """The best point of all, shape (N,)."""
        return self.best_points[int(self.best_values.argmin())]


@dataclass(frozen=True, kw_only=True)
class Halving:
    """Successive halving: at each of these places the worse half of the starts is dropped.

    K. Jamieson, A. Talwalkar, "Non-stochastic Best Arm Identification and Hyperparameter Optimization",
    AISTATS 2016. Judged by the values that the search itself computes.
    """

    at: tuple[float, ...] = (0.05, 0.1, 0.2)

    def survivors(self, values: Tensor, before: float, after: float) -> Tensor | None:
        """Which of the starts stay when progress goes from `before` to `after`; None: all."""
        rounds = sum(before < place <= after for place in self.at)
        keep = math.ceil(len(values) / 2**rounds)
        if keep == len(values):
            return None
        return values.argsort(stable=True)[:keep].sort().values


def search(
    function: Function,
    points: Tensor,
    *,
    optimizer: Optimizer,
    rate: float,
    steps: int,
    schedule: Schedule | None = None,
    halving: Halving | None = None,
    project: Callable[[Tensor], Tensor] | None = None,
    score: Callable[[Tensor], Tensor] | None = None,
    score_every: int = 25,
    enough: float = 0.0,
    at_once: int | None = None,
    deadline: float = float("inf"),
    pause: int | None = None,
    resume: Search | None = None,
    describe: str = "matching",
) -> Search:
    """Minimize from several starts at once.

    The result is the best point that was ever evaluated, not the last one. A deadline, or Ctrl-C, ends the
    search with what it has.

    Parameters
    ----------
    function : Function
    points : Tensor of shape (K, N)
        The starts.
    optimizer : Optimizer
    rate : float
        Step size, times what `schedule` says.
    steps : int
        At most; progress is the share of them that was made.
    schedule : Schedule, default Constant()
    halving : Halving, optional
        Drops starts early; none are dropped if not given.
    project : callable, optional
        Applied to the points after every step, for example to stay in a box.
    score : callable, optional
        From points (K, N) to values (K,), what "best" means if not the function itself: needed where the
        function changes with progress. Looked at every `score_every` steps and at the end.
    enough : float, default 0.0
        A value at which the search ends.
    at_once : int, optional
        How many starts are evaluated in one pass; all if not given.
    deadline : float
        In terms of ``time.perf_counter()``; no step begins that would not end before it.
    pause : int, optional
        End at this step, to be resumed; progress stays a share of `steps`.
    resume : Search, optional
        Go on from there; `points` is not used then.
    describe : str
        For the progress bar, which only a terminal shows.

    Returns
    -------
    Search

    Examples
    --------
    >>> from attacks.matching.optimizers import Adam
    >>> def bowl(points, progress=0.0):
    ...     return (points - 3.0).square().sum(1)
    >>> found = search(bowl, torch.zeros(2, 1), optimizer=Adam(), rate=0.3, steps=100)
    >>> round(float(found.point), 1), found.stopped
    (3.0, 'done')
    """
    schedule = schedule or Constant()
    state = resume or _begin(points, optimizer)
    slowest = 0.0
    last = steps if pause is None else min(pause, steps)
    with tqdm(total=steps, initial=state.step, desc=describe, disable=None, leave=False, delay=1.0) as bar:
        try:
            while state.step < last:
                begun = time.perf_counter()
                if begun + slowest >= deadline:
                    return replace(_scored(state, score), stopped="time")
                progress = state.step / steps
                seen = _Evaluation(function, progress, at_once)
                memory = optimizer.step(state.memory, seen, rate * schedule(progress))
                if project is not None:
                    memory = {**memory, "points": project(memory["points"])}
                if score is None:
                    state = _improved(state, seen.points, seen.values)
                elif state.step % score_every == 0:
                    state = _improved(state, seen.points, _values(score, seen.points))
                state = replace(state, step=state.step + 1, memory=memory, stopped="")
                if halving is not None:
                    state = _halved(state, halving.survivors(state.best_values, progress, state.step / steps))
                if state.value <= enough:
                    return replace(state, stopped="converged")
                slowest = max(slowest, time.perf_counter() - begun)
                bar.set_postfix(residual=f"{state.value:.2e}", refresh=False)
                bar.update()
        except KeyboardInterrupt:
            return replace(_scored(state, score), stopped="interrupted")
    return replace(_scored(state, score), stopped="done" if state.step >= steps else "paused")


class _Evaluation:
    """Values and gradients at one moment of the search; remembers what it saw."""

    def __init__(self, function: Function, progress: float, at_once: int | None) -> None:
        self.function, self.progress, self.at_once = function, progress, at_once

    def __call__(self, points: Tensor) -> tuple[Tensor, Tensor]:
        parts = [self._part(part) for part in points.split(self.at_once or len(points))]
        self.points = points
        self.values = torch.cat([values for values, _ in parts])
        return self.values, torch.cat([gradient for _, gradient in parts])

    def _part(self, points: Tensor) -> tuple[Tensor, Tensor]:
        points = points.detach().requires_grad_()
        with torch.enable_grad():
            values = self.function(points, self.progress)
            gradient = torch.autograd.grad(values.sum(), points)[0]
        return values.detach(), gradient


def _begin(points: Tensor, optimizer: Optimizer) -> Search:
    if points.dim() != 2 or not len(points):
        raise ValueError(f"the starts must have shape (K, N) with K of 1 or more, got {tuple(points.shape)}")
    points = points.detach().clone()
    return Search(
        step=0,
        memory=optimizer.begin(points),
        starts=tuple(range(len(points))),
        best_points=points,
        best_values=points.new_full((len(points),), float("inf")),
    )


def _values(score: Callable[[Tensor], Tensor], points: Tensor) -> Tensor:
    with torch.no_grad():
        return score(points)


def _scored(state: Search, score: Callable[[Tensor], Tensor] | None) -> Search:
    """The last points count as well, if there is a score of their own."""
    if score is None:
        return state
    points = state.memory["points"]
    return _improved(state, points, _values(score, points))


def _improved(state: Search, points: Tensor, values: Tensor) -> Search:
    """Remember what is better; a NaN never is."""
    better = values < state.best_values
    if not bool(better.any()):
        return state
    best = torch.where(better, values, state.best_values)
    history = state.history
    if not history or float(best.min()) < history[-1][1]:
        history = (*history, (state.step, float(best.min())))
    return replace(
        state,
        best_points=torch.where(better[:, None], points.detach(), state.best_points),
        best_values=best,
        history=history,
    )


def _halved(state: Search, kept: Tensor | None) -> Search:
    if kept is None:
        return state
    return replace(
        state,
        memory={name: tensor[kept] for name, tensor in state.memory.items()},
        starts=tuple(state.starts[i] for i in kept.tolist()),
        best_points=state.best_points[kept],
        best_values=state.best_values[kept],
    )


def best_of(searches: Sequence[Search]) -> Search:
    """The search with the smallest value."""
    return min(searches, key=lambda one: one.value)
