"""Gauss-Newton on the whole gradient: the last digits of an image that is nearly right."""

from __future__ import annotations

import time

import torch
from torch import Tensor

from attacks.replay import observed_vector, own_randomness, replay
from attacks.rounding import rounding_of
from fedpriv.wire import Observation

ENOUGH = 4.0
"""The replay may stay off by this many times the rounding; a certificate allows twice as much."""


def polish(
    observation: Observation,
    inputs: Tensor,
    targets: Tensor,
    *,
    steps: int = 5,
    deadline: float = float("inf"),
) -> Tensor:
    """Improve `inputs` until their replay agrees with the observed update as well as rounding lets it.

    Each step solves ``min |J d - r|`` by conjugate gradients, with J the Jacobian of the update by the inputs
    and r what the replay leaves; a step that does not help ends it.

    Parameters
    ----------
    observation : Observation
    inputs : Tensor of shape (n, *input_shape)
    targets : Tensor of shape (n, ...)
    steps : int
    deadline : float
        In terms of ``time.perf_counter()``.

    Returns
    -------
    Tensor of shape (n, *input_shape)
        Never worse than what came in.
    """
    observed = observed_vector(observation)
    best, distance = inputs, float("inf")
    candidate, target = inputs, 0.0
    with own_randomness():
        for step in range(steps + 1):
            point = candidate.detach().requires_grad_()
            replayed = replay(observation, point, targets)
            error = observed - replayed.detach()
            reached = float(error.norm())
            if not reached < distance:
                break
            gained = reached / distance
            best, distance = candidate.detach(), reached
            if step == 0:
                rounding = rounding_of([observation], best, targets, replayed.detach()[None])
                target = float(rounding)
            if step == steps or reached <= ENOUGH * target or gained > 0.9 or time.perf_counter() > deadline:
                break
            candidate = best + _least_squares(replayed, point, error, target, deadline)
    return best


def _least_squares(
    replayed: Tensor, point: Tensor, error: Tensor, target: float, deadline: float, max_steps: int = 200
) -> Tensor:
    """CGLS on the Jacobian of `replayed` by `point`; both products come from one recorded graph.

    It ends where the linear model leaves `target`: directions that matter less than rounding stay as they
    are.
    """
    weights = torch.zeros_like(replayed, requires_grad=True)
    pulled = torch.autograd.grad(replayed, point, weights, create_graph=True)[0]

    def forward(direction: Tensor) -> Tensor:
        return torch.autograd.grad(pulled, weights, direction, retain_graph=True)[0]

    def backward(vector: Tensor) -> Tensor:
        return torch.autograd.grad(replayed, point, vector, retain_graph=True)[0]

    x, residual = torch.zeros_like(point), error.clone()
    slope = backward(residual)
    direction, power = slope.clone(), float(slope.square().sum())
    start = power
    for _ in range(max_steps):
        if power <= 1e-8 * start or float(residual.norm()) <= target or time.perf_counter() > deadline:
            break
        image = forward(direction)
        length = power / float(image.square().sum().clamp_min(1e-300))
        x, residual = x + length * direction, residual - length * image
        slope = backward(residual)
        previous, power = power, float(slope.square().sum())
        direction = slope + power / previous * direction
    return x.detach()
