"""The search for the input of a block on softened layers, which become sharper and sharper."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from attacks.matching.blocks.block import Block
from attacks.matching.blocks.masks import PooledBatch
from attacks.matching.blocks.softened import Sharpness
from attacks.matching.optimizers import signed_adam
from attacks.matching.priors import TotalVariation
from attacks.matching.schedules import CosineDecay
from attacks.matching.search import Search, search


@dataclass(frozen=True, kw_only=True)
class Weights:
    """What counts how much in the objective.

    Parameters
    ----------
    values : float
        Of the relative squared error at the cut. The cosine distance of the gradients counts 1.
    rows : float
        Of the share of the last convolution's patches outside their known row space.
    variation : float
        Of the total variation.
    """

    values: float = 0.5
    rows: float = 1.0
    variation: float = 0.02


@dataclass(frozen=True, kw_only=True, eq=False)
class BlockEnergy:
    """The objective of one block: points (K, N) and a sharpness to values (K,).

    Parameters
    ----------
    block : Block
    weights : Weights
    pooled : PooledBatch or None
        Row space of a convolution inside the block.
    """

    block: Block
    weights: Weights
    pooled: PooledBatch | None = None

    def inputs(self, points: Tensor) -> Tensor:
        """Points (..., N) as batches (..., n, *input_shape)."""
        return points.reshape(*points.shape[:-1], len(self.block.cut.values), *self.block.input_shape)

    def __call__(self, points: Tensor) -> Tensor:
        """One value for each point."""
        return torch.stack([self._one(x) for x in self.inputs(points)])

    def _one(self, x: Tensor) -> Tensor:
        taps = [] if self.pooled is None else [self.pooled.depth]
        values, found, tapped = self.block.gradients(x, taps)
        wanted, weights = self.block.cut.values, self.weights
        loss = weights.values * (values - wanted).square().sum() / wanted.square().sum()
        if found:
            loss = loss + _cosine_distance(found, list(self.block.observed.values()))
        if self.pooled is not None and weights.rows > 0:
            loss = loss + weights.rows * self.pooled.leaving(tapped[0])
        if weights.variation > 0:
            loss = loss + weights.variation * TotalVariation()(x[None])[0]
        return loss


def _cosine_distance(found: list[Tensor], observed: list[Tensor]) -> Tensor:
    product = torch.stack([(f * o).sum() for f, o in zip(found, observed, strict=True)]).sum()
    sizes = [torch.stack([t.square().sum() for t in side]).sum() for side in (found, observed)]
    return 1 - product / (sizes[0] * sizes[1]).sqrt().clamp_min(1e-30)


def search_smoothed(
    energy: Callable[[Tensor], Tensor],
    sharpness: Sharpness,
    points: Tensor,
    *,
    steps: int,
    rate: float,
    sharpen: tuple[float, float],
    deadline: float,
    describe: str,
    watch: Callable[[Tensor], None] | None = None,
) -> Search:
    """Signed Adam with cosine decay while the sharpness grows geometrically from ``sharpen[0]`` to the other.

    Parameters
    ----------
    energy : callable
        From points (K, N) to values (K,), at the sharpness that is set at the time.
    sharpness : Sharpness
        Set here; exact again afterwards.
    points : Tensor of shape (K, N)
    watch : callable, optional
        Is shown the points after every step.
    """
    first, last = sharpen

    def function(points: Tensor, progress: float = 0.0) -> Tensor:
        sharpness.value = first * (last / first) ** progress
        return energy(points)

    def score(points: Tensor) -> Tensor:
        sharpness.value = last
        return energy(points)

    def seen(points: Tensor) -> Tensor:
        if watch is not None:
            watch(points)
        return points

    try:
        return search(
            function,
            points,
            optimizer=signed_adam(),
            rate=rate,
            steps=steps,
            schedule=CosineDecay(),
            project=seen,
            score=score,
            score_every=max(steps // 4, 1),
            at_once=1,
            deadline=deadline,
            describe=describe,
        )
    finally:
        sharpness.value = float("inf")
