"""Whether candidates can be computed together, found by trying it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from attacks.replay import REPLAY_ERRORS, own_randomness

if TYPE_CHECKING:
    from attacks.matching.problem import Problem


def one_pass_agrees(problem: Problem) -> bool:
    """Whether the second of two random candidates has the same gradient, and slope, together as alone.

    Both are compared, for a pass may give the right gradient and a wrong second derivative.
    """
    size = (2, problem.num_samples, *problem.input_shape)
    inputs = torch.randn(size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    inputs = inputs.to(problem.device, problem.dtype)

    def together(x: Tensor) -> list[Tensor]:
        return [g[1] for g in problem.together(torch.stack([inputs[0], x]), targets)]

    try:
        with own_randomness():
            some = problem.some_targets(inputs[0])
            targets = some.expand(2, *some.shape)
            one = _with_slope(lambda x: problem.gradients(x, targets[1]), inputs[1])
            two = _with_slope(together, inputs[1])
    except REPLAY_ERRORS:
        return False
    limit = torch.finfo(problem.dtype).eps
    return all(
        float((a - b).square().sum()) <= limit * float(a.square().sum())
        for a, b in zip(one, two, strict=True)
    )


def _with_slope(function: Callable[[Tensor], list[Tensor]], point: Tensor) -> tuple[Tensor, Tensor]:
    """The values as one vector, and the slope of the sum of their squares, both in float64."""
    leaf = point.clone().requires_grad_()
    with torch.enable_grad():
        values = torch.cat([g.reshape(-1) for g in function(leaf)])
        slope = torch.autograd.grad(values.square().sum(), leaf)[0]
    return values.detach().double(), slope.double()
