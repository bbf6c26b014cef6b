"""The linear equations that one segment of a network gives for its input.

Unknown is the input x of the segment. With the backward signal behind every layer known, each layer's weight
gradient is linear in x; with the segment's output z known, so is ``A x = z - offset``. All equations
together are solved in the least-squares sense by conjugate gradients (CGLS: Hestenes and Stiefel 1952), which
needs each map and its transpose only.

Whether they determine x is measured, not assumed: a random vector p is solved for beside x from the
right-hand side that p itself would give. What does not come back of it is its part in the null space, and
for a Gaussian p that part has the expected share (nullity / unknowns) of its square.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from attacks.exact.layers.cgls import conjugate_gradients
from attacks.exact.layers.chain import Segment
from attacks.exact.layers.maps import ConvolutionMap
from attacks.exact.layers.precondition import Preconditioner, convolution_preconditioner
from attacks.replay import parameter_name

DENSE_ENTRIES = 2_000_000
"""Up to this many entries the matrix is formed where its exact rank is asked for."""
FORWARD_WEIGHT = 0.1
"""Weight of the forward equations beside those of the weight gradient.

The latter treat all channels alike, which the preconditioner solves exactly; the smaller the weight of the
former, the fewer steps. On LeNet 0.03 to 0.3 differ little.
"""
SMALLEST = 1e-100
"""Norm below which a block of equations counts as zero; the square of one over it is still a float."""
_STOP = 1e-30  # of the squared gradient; rounding allows no less


@dataclass(frozen=True, kw_only=True, eq=False)
class Solution:
    """The outcome of `SegmentEquations.solve`.

    Parameters
    ----------
    x : Tensor of shape (1, *in_shape)
        Of least norm where the equations leave a choice.
    equations, unknowns, rank : int
        `rank` equals `unknowns` where x is determined; else it is exact for small systems and estimated from
        one random vector for large ones.
    residual : float
        What the equations leave unexplained, relative to their right-hand side.
    lost : float
        Share of a random vector that the equations do not return (root mean square).
    steps : int
        Of conjugate gradients.
    counted : bool
        Whether `rank` is exact rather than estimated.
    """

    x: Tensor
    equations: int
    unknowns: int
    rank: int
    residual: float
    lost: float
    steps: int
    counted: bool = True

    @property
    def determined(self) -> bool:
        """Whether the equations have one solution."""
        return self.rank == self.unknowns


@dataclass(frozen=True, kw_only=True, eq=False)
class SegmentEquations:
    """Equations for the input of a segment.

    Parameters
    ----------
    segment : Segment
    signal : Tensor of shape (1, *out_shape)
        The gradient of the loss by the segment's output.
    gradient : mapping of str to Tensor
        The observed gradient, by parameter name; layers whose weight is missing give no equations.
    output : Tensor of shape (1, *out_shape), optional
        The segment's output, if known.
    weight : Tensor of shape (1, *out_shape), optional
        Weight of each forward equation, in [0, 1]; zero where the output is not known.
    """

    segment: Segment
    signal: Tensor
    gradient: Mapping[str, Tensor]
    output: Tensor | None = None
    weight: Tensor | None = None
    signals: tuple[Tensor, ...] = field(init=False)
    observed: tuple[bool, ...] = field(init=False)

    def __post_init__(self) -> None:
        """Carry the signal through the segment; for linear maps that needs no values."""
        signals = [self.signal]
        for part in reversed(self.segment.maps):
            signals.insert(0, part.transpose(signals[0]))
        object.__setattr__(self, "signals", tuple(signals))
        observed = tuple(
            p.has_weight and parameter_name(p.name, "weight") in self.gradient for p in self.segment.maps
        )
        object.__setattr__(self, "observed", observed)

    def apply(self, x: Tensor) -> list[Tensor]:
        """Left-hand sides for k candidates (k, *in_shape): the output if known, then each weight gradient."""
        found = []
        for part, signal, observed in zip(self.segment.maps, self.signals[1:], self.observed, strict=True):
            if observed:
                found.append(part.weight_gradient(x, signal).flatten(1))
            x = part.apply(x)
        if self.output is not None:
            found.insert(0, (x if self.weight is None else x * self.weight).flatten(1))
        return found

    def transpose(self, values: list[Tensor]) -> Tensor:
        """The transpose of `apply`."""
        values, count = list(values), len(values[0])
        x = torch.zeros(count, *self.segment.out_shape, dtype=torch.float64)
        if self.output is not None:
            x = values.pop(0).reshape(x.shape) * (1.0 if self.weight is None else self.weight)
        backwards = list(zip(self.segment.maps, self.signals[1:], self.observed, strict=True))[::-1]
        for index, (part, signal, observed) in enumerate(backwards):
            x = part.transpose(x) if index or self.output is not None else x.new_zeros(count, *part.in_shape)
            if observed:
                shape = part.state["weight"].shape
                x = x + part.weight_gradient_transpose(values.pop().reshape(count, *shape), signal)
        return x

    def right_hand_side(self) -> list[Tensor]:
        """What `apply` returns for the true input; offsets of earlier maps are accounted for."""
        found, value = [], torch.zeros(1, *self.segment.in_shape, dtype=torch.float64)
        for part, signal, observed in zip(self.segment.maps, self.signals[1:], self.observed, strict=True):
            if observed:
                gradient = self.gradient[parameter_name(part.name, "weight")].double()[None]
                found.append((gradient - part.weight_gradient(value, signal)).flatten(1))
            value = part.apply(value) + part.offset
        if self.output is not None:
            known = self.output - value
            found.insert(0, (known if self.weight is None else known * self.weight).flatten(1))
        return found

    @property
    def num_equations(self) -> int:
        """How many there are; outputs of weight zero do not count."""
        forward = 0
        if self.output is not None:
            forward = self.output.numel() if self.weight is None else int((self.weight > 0).sum())
        weights = [
            p.state["weight"].numel() for p, o in zip(self.segment.maps, self.observed, strict=True) if o
        ]
        return forward + sum(weights)

    def matrix(self) -> Tensor:
        """All equations as one dense matrix, blocks scaled as in `solve`; for small systems and tests."""
        unknowns = _size(self.segment.in_shape)
        units = torch.eye(unknowns, dtype=torch.float64).reshape(unknowns, *self.segment.in_shape)
        blocks = [b.T for b in self.apply(units)]
        return torch.cat([b / b.norm().clamp_min(1e-300) for b in blocks])

    def solve(self, *, precision: float = 2e-16, seed: int = 0, max_steps: int = 1000) -> Solution:
        """Least squares on all equations, each block in units of its root mean square row.

        Parameters
        ----------
        precision : float
            Relative error of the numbers in the gradient; steps that only matter far below it are not taken.
        seed : int
            Of the random vector that measures what the equations determine.
        max_steps : int
        """
        unknowns, equations = _size(self.segment.in_shape), self.num_equations
        generator = torch.Generator().manual_seed(seed)
        probe = torch.randn(1, *self.segment.in_shape, generator=generator, dtype=torch.float64)
        truth = self.right_hand_side()
        if not truth:
            x = torch.zeros_like(probe)
            return Solution(x=x, equations=0, unknowns=unknowns, rank=0, residual=0.0, lost=1.0, steps=0)
        images = self.apply(probe)
        # |A p|^2 estimates the squared Frobenius norm of a block; like `matrix`, each block gets norm one.
        scales = [_scale(image, side) for image, side in zip(images, truth, strict=True)]
        if self.output is not None and len(scales) > 1:
            scales[0] *= FORWARD_WEIGHT
        sides = [torch.cat([t, i]) * s for t, i, s in zip(truth, images, scales, strict=True)]
        x, steps = conjugate_gradients(
            lambda x: [a * c for a, c in zip(self.apply(x), scales, strict=True)],
            lambda values: self.transpose([v * c for v, c in zip(values, scales, strict=True)]),
            sides,
            precondition=self._preconditioner(scales),
            stop=max((1e-3 * precision) ** 2, _STOP),
            max_steps=max_steps,
        )
        left = torch.cat([(s - a * c)[0] for s, a, c in zip(sides, self.apply(x), scales, strict=True)])
        right = torch.cat([s[0] for s in sides])
        lost = float((x[1] - probe[0]).norm() / probe.norm())
        rank, counted = self._rank(lost, unknowns, equations)
        return Solution(
            x=x[:1],
            equations=equations,
            unknowns=unknowns,
            rank=rank,
            residual=float(left.norm() / right.norm().clamp_min(1e-300)),
            lost=lost,
            steps=steps,
            counted=counted,
        )

    def _rank(self, lost: float, unknowns: int, equations: int) -> tuple[int, bool]:
        """Full unless the probe lost about one dimension or more; then counted, or estimated if large."""
        if unknowns * lost**2 < 0.01 and unknowns <= equations:
            return unknowns, True
        if unknowns * equations <= DENSE_ENTRIES:
            return int(torch.linalg.matrix_rank(self.matrix(), rtol=1e-9)), True
        return min(equations, unknowns - max(1, round(unknowns * lost**2))), False

    def _preconditioner(self, scales: list[float]) -> Preconditioner:
        """For a segment that begins with a convolution its own, else none."""
        first = self.segment.maps[0]
        found = None
        if isinstance(first, ConvolutionMap):
            signal = self.signals[1] if self.observed[0] else None
            weight = None
            if self.output is not None and len(self.segment.maps) == 1:
                weight = torch.ones_like(self.signal) if self.weight is None else self.weight
            if signal is not None or weight is not None:
                found = convolution_preconditioner(first, signal, weight, (scales[0], scales[-1]))
        return found or (lambda x: x)


def _scale(image: Tensor, side: Tensor) -> float:
    """One over the block's norm. A block of zeros says nothing, or that its right-hand side is impossible."""
    sizes = (float(image.norm()), float(side.norm()))
    return 1.0 / next((size for size in sizes if size > SMALLEST), 1.0)


def _size(shape: tuple[int, ...]) -> int:
    return int(torch.Size(shape).numel())
