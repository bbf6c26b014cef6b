"""The length of a sample where the layers leave it open: no bias, and an activation like ReLU.

If ``act(s z) = s act(z)`` for every s > 0 and the first layer has no bias, then with a sample every multiple
of it is consistent. The bias gradient of the second layer fixes the length at once, for ``a . e2 = 1``.
Without it, only the signals tell: the outputs grow with the sample, and at the true length alone some class
explains them.
"""

from __future__ import annotations

import torch
from torch import Tensor

from attacks.exact.consistency.backward import class_signals, pass_through, takes_classes
from attacks.exact.consistency.problem import Evidence

_GRID, _DECADES = 48, 2.0  # lengths tried first: so many, from 10^-2 to 10^2 times the starting one
_HALVINGS = 45  # golden section steps: each keeps 0.62 of the interval


def leaves_scale_open(evidence: Evidence) -> bool:
    """Whether multiples of a sample are as consistent as the sample itself."""
    layers = evidence.layers
    if evidence.plane is not None or bool(layers.bias_1.any()):
        return False
    z = torch.randn(4, len(layers.bias_1), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    a = layers.act(z)
    return bool((layers.act(3 * z) - 3 * a).norm() <= 1e-9 * a.norm())


def why_no_scale(evidence: Evidence) -> str | None:
    """Why the lengths of the samples cannot be known, or None if they can."""
    layers = evidence.layers
    if not leaves_scale_open(evidence) or evidence.two.plane is not None:
        return None
    if layers.tail is not None and takes_classes(layers.loss_fn, evidence.num_signals):
        return None
    return (
        "neither layer has a bias gradient, and the activation scales with its input: samples are known "
        "up to their lengths only"
    )


def unit_scale(evidence: Evidence, coordinates: Tensor) -> Tensor:
    """Coordinates (k, r1) with neurons' inputs of mean square one."""
    z = coordinates @ evidence.forward
    return coordinates / z.square().mean(1, keepdim=True).sqrt().clamp_min(1e-300)


def with_scale(evidence: Evidence, coordinates: Tensor) -> Tensor:
    """Coordinates (k, r1) brought to the length at which they are samples, as far as that is known."""
    layers, two = evidence.layers, evidence.two
    unit = unit_scale(evidence, coordinates)
    if two.plane is not None:
        length = (layers.act(unit @ evidence.forward) @ two.rows.T) @ two.plane
        return unit / torch.where(length > 0, length, 1.0)[:, None]
    if layers.tail is None or not takes_classes(layers.loss_fn, evidence.num_signals):
        return unit
    grid = torch.linspace(-_DECADES, _DECADES, _GRID, dtype=torch.float64)
    tried = torch.stack([_class_misfit(evidence, unit, g.expand(len(unit))) for g in grid])
    best = grid[tried.argmin(0)]
    width = float(grid[1] - grid[0])
    return unit * 10 ** _golden_section(evidence, unit, best - width, best + width)[:, None]


def _class_misfit(evidence: Evidence, unit: Tensor, exponent: Tensor) -> Tensor:
    """How far the best class leaves the second column space, as a share of its signal, at 10^exponent."""
    forward = pass_through(evidence, unit * 10 ** exponent[:, None])
    signals = class_signals(forward.outputs, evidence.layers.loss_fn) @ forward.jacobian  # (k, K, m2)
    columns = evidence.two.columns
    outside = (signals - (signals @ columns) @ columns.T).norm(dim=2)
    misfit: Tensor = (outside / signals.norm(dim=2).clamp_min(1e-300)).amin(1)
    return misfit


def _golden_section(evidence: Evidence, unit: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """The exponents (k,) between `low` and `high` with the smallest misfit, every sample on its own."""
    ratio = (5**0.5 - 1) / 2
    left, right = high - ratio * (high - low), low + ratio * (high - low)
    at_left, at_right = (_class_misfit(evidence, unit, e) for e in (left, right))
    for _ in range(_HALVINGS):
        smaller = at_left < at_right
        low, high = torch.where(smaller, low, left), torch.where(smaller, right, high)
        middle = torch.where(smaller, high - ratio * (high - low), low + ratio * (high - low))
        seen = _class_misfit(evidence, unit, middle)
        left, right = torch.where(smaller, middle, right), torch.where(smaller, left, middle)
        at_left, at_right = torch.where(smaller, seen, at_right), torch.where(smaller, at_left, seen)
    return (low + high) / 2
