"""Elementwise activations, inverted numerically: any nondecreasing one, known in closed form or not.

Where the activation is flat (ReLU below zero, ReLU6 also above six, a saturated sigmoid) its value does not
tell its argument. Those entries are marked as unknown; their slope is zero, so the backward signal that
passes them is known all the same.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call

_GRID = 4001
_STEPS = 60


class Inverse(NamedTuple):
    """Arguments of an activation: `value`, whether each is `known`, and the `slope` there. One shape each."""

    value: Tensor
    known: Tensor
    slope: Tensor


class Activation:
    """An elementwise activation with its inverse.

    Parameters
    ----------
    name : str
        Where it stands in the model.
    module : nn.Module
    state : dict of str to Tensor
        Its parameters as sent (PReLU has one), float64.
    """

    def __init__(self, name: str, module: nn.Module, state: dict[str, Tensor]) -> None:
        self.name = name
        self.module = module
        self._state = state

    @property
    def kind(self) -> str:
        """The module's class, for reports."""
        return type(self.module).__name__

    def __call__(self, x: Tensor) -> Tensor:
        """Evaluate it."""
        result: Tensor = functional_call(self.module, self._state, (x,))
        return result

    def why_not(self) -> str | None:
        """Why it cannot be inverted, or None; the sentence goes on after the module's name."""
        probe = torch.linspace(-3, 3, 24, dtype=torch.float64).reshape(1, 2, 3, 4)
        changed = probe.clone()
        changed[0, 1, 2, 3] = 0.123
        with torch.no_grad():
            try:
                before, after = self(probe), self(changed)
                flipped = self(probe.flip(1, 2, 3)).flip(1, 2, 3)
                same = flipped.shape == probe.shape and _close(before, flipped)
            except (RuntimeError, ValueError, TypeError, IndexError):
                return "is not a layer that this attack knows"
            if not same or int(((before - after).abs() > 1e-12).sum()) > 1:
                return "is neither linear nor elementwise"
            values = self(_grid(40.0))
        if bool((values.diff() < -1e-12 * values.abs().max()).any()):
            return "is not monotonic, so one value has several arguments"
        return None if float(values.max() - values.min()) > 0 else "is constant"

    def invert(self, values: Tensor, tolerance: float) -> Inverse:
        """Arguments at which the activation takes `values`.

        Parameters
        ----------
        values : Tensor
            float64, of any shape.
        tolerance : float
            Error of `values`, absolute. Values this close to a flat piece are taken to lie on it, and values
            outside the activation's range by no more than this are moved into it.

        Raises
        ------
        ValueError
            If values are out of range.
        """
        flat = values.reshape(-1)
        grid = _grid(self._reach(flat))
        with torch.no_grad():
            levels = self(grid)
        below, above = float(levels[0] - flat.min()), float(flat.max() - levels[-1])
        if max(below, above) > tolerance:
            raise ValueError(
                f"{self.kind} {self.name!r} returns {float(levels[0]):.3g} to {float(levels[-1]):.3g}, but a "
                f"value of {float(flat.max() if above > below else flat.min()):.3g} was found behind it"
            )
        upper = torch.searchsorted(levels, flat.contiguous()).clamp(1, len(grid) - 1)
        argument = self._refine(flat, grid[upper - 1], grid[upper])
        with torch.enable_grad():
            point = argument.clone().requires_grad_()
            slope = torch.autograd.grad(self(point).sum(), point)[0]
        unknown = self._on_flat_piece(flat, levels, tolerance)
        slope = torch.where(unknown, torch.zeros_like(slope), slope)
        return Inverse(
            argument.reshape(values.shape), ~unknown.reshape(values.shape), slope.reshape(values.shape)
        )

    def _reach(self, values: Tensor) -> float:
        """Largest argument that is considered."""
        reach = 40.0
        low, high = float(values.min()), float(values.max())
        with torch.no_grad():
            while reach < 1e12:
                ends = self(torch.tensor([-reach, reach], dtype=torch.float64))
                wider = self(torch.tensor([-2 * reach, 2 * reach], dtype=torch.float64))
                enough = (ends[0] <= low or ends[0] == wider[0]) and (ends[1] >= high or ends[1] == wider[1])
                if enough:
                    break
                reach *= 2
        return reach

    def _refine(self, values: Tensor, low: Tensor, high: Tensor) -> Tensor:
        """Newton's method inside a bracket, with bisection where it would leave the bracket."""
        point = (low + high) / 2
        for _ in range(_STEPS):
            with torch.enable_grad():
                point = point.detach().requires_grad_()
                reached = self(point)
                slope = torch.autograd.grad(reached.sum(), point)[0]
            point, error = point.detach(), reached.detach() - values
            low = torch.where(error <= 0, point, low)
            high = torch.where(error >= 0, point, high)
            following = point - error / slope
            inside = (following >= low) & (following <= high) & (slope > 0)
            following = torch.where(inside, following, (low + high) / 2)
            done = (following - point).abs() <= 2e-16 * point.abs()
            point = following
            if bool(done.all()):
                break
        return point

    def _on_flat_piece(self, values: Tensor, levels: Tensor, tolerance: float) -> Tensor:
        """Whether each value is one that the activation takes on a whole interval."""
        repeated = levels[1:][levels.diff() <= 0].unique()
        if not len(repeated):
            return torch.zeros_like(values, dtype=torch.bool)
        near: Tensor = (values[:, None] - repeated).abs().amin(dim=1) <= tolerance
        return near


def _close(x: Tensor, y: Tensor) -> bool:
    """Equal but for rounding, which may depend on an entry's place in memory."""
    return torch.allclose(x, y, rtol=1e-12, atol=1e-12)


def _grid(reach: float) -> Tensor:
    """Points from -reach to reach, denser near zero."""
    end = torch.asinh(torch.tensor(reach, dtype=torch.float64))
    points: Tensor = torch.sinh(torch.linspace(-1, 1, _GRID, dtype=torch.float64) * end)
    return points
