"""The unknowns of a search as one vector: inputs, and targets where they are sought as well."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from attacks.matching.gram import GramProducts
from attacks.matching.objectives import Objective, OfProducts
from attacks.matching.priors import Box, Prior
from attacks.matching.problem import Problem


@dataclass(frozen=True, eq=False, kw_only=True)
class Unknowns:
    """A batch as a vector of N numbers: all inputs, then the free numbers behind the targets.

    Parameters
    ----------
    num_samples : int
    input_shape : tuple of int
    targets : Tensor of shape (n, ...) or None
        Known targets; None: they are unknowns too.
    target_shape : tuple of int
        Of one unknown target, for example ``(classes,)``.
    to_targets : callable, optional
        From free numbers (..., n, *target_shape) to targets: a softmax over the last dimension for soft
        labels, the identity if not given.
    """

    num_samples: int
    input_shape: tuple[int, ...]
    targets: Tensor | None = None
    target_shape: tuple[int, ...] = ()
    to_targets: Callable[[Tensor], Tensor] | None = None

    @property
    def _input_size(self) -> int:
        return self.num_samples * math.prod(self.input_shape)

    @property
    def size(self) -> int:
        """N."""
        free = 0 if self.targets is not None else self.num_samples * math.prod(self.target_shape)
        return self._input_size + free

    def split(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Inputs (K, n, *input_shape) and targets (K, n, ...) of the points (K, N).

        Examples
        --------
        >>> unknowns = Unknowns(num_samples=2, input_shape=(3,), target_shape=(4,))
        >>> inputs, targets = unknowns.split(torch.zeros(5, unknowns.size))
        >>> inputs.shape, targets.shape
        (torch.Size([5, 2, 3]), torch.Size([5, 2, 4]))
        """
        inputs = points[:, : self._input_size].reshape(-1, self.num_samples, *self.input_shape)
        if self.targets is not None:
            return inputs, self.targets.expand(len(points), *self.targets.shape)
        free = points[:, self._input_size :].reshape(-1, self.num_samples, *self.target_shape)
        return inputs, free if self.to_targets is None else self.to_targets(free)

    def draw(
        self, starts: int, generator: torch.Generator, *, scale: float = 1.0, like: Tensor | None = None
    ) -> Tensor:
        """K points: inputs from N(0, scale²), free numbers of targets from N(0, 1).

        Drawn on the processor in float64, so that precision and device do not change them; then moved to
        those of `like`.
        """
        points = torch.randn(starts, self.size, generator=generator, dtype=torch.float64)
        points[:, : self._input_size] *= scale
        return points if like is None else points.to(like)

    def inside(self, box: Box) -> Callable[[Tensor], Tensor]:
        """The projection of points whose inputs leave `box`."""

        def project(points: Tensor) -> Tensor:
            inputs = box.project(self.split(points)[0]).flatten(1)
            return torch.cat([inputs, points[:, self._input_size :]], dim=1)

        return project

    def join(self, inputs: Tensor, free: Tensor | None = None) -> Tensor:
        """The points (K, N) of inputs (K, n, *input_shape) and free numbers; the inverse of `split`."""
        parts = [inputs.flatten(1)] + ([] if free is None else [free.flatten(1)])
        return torch.cat(parts, dim=1)


@dataclass(frozen=True, eq=False, kw_only=True)
class Energy:
    """What a search minimizes: an objective on gradients plus weighted priors on inputs.

    Parameters
    ----------
    problem : Problem
    unknowns : Unknowns
    objective : Objective
    priors : tuple of (float, Prior)
    gram : GramProducts, optional
        A cheaper way to the same value, for objectives that are `OfProducts`.
    """

    problem: Problem
    unknowns: Unknowns
    objective: Objective
    priors: tuple[tuple[float, Prior], ...] = ()
    gram: GramProducts | None = None

    def __call__(self, points: Tensor, progress: float = 0.0) -> Tensor:
        """Shape (K, N) to (K,); `progress` runs from 0 to 1 and changes nothing here."""
        del progress
        inputs, targets = self.unknowns.split(points)
        if self.gram is not None and isinstance(self.objective, OfProducts):
            pairs = [self.gram(x, t) for x, t in zip(inputs, targets, strict=True)]
            sizes = torch.stack([o.square().sum() for o in self.problem.observed])
            value = torch.stack([self.objective.of_products(*pair, sizes) for pair in pairs])
        else:
            value = self.objective(self.problem.stacked_gradients(inputs, targets), self.problem.observed)
        for weight, prior in self.priors:
            value = value + weight * prior(inputs)
        return value
