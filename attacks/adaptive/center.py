"""The analytic center of a polytope: where halfspaces and a box leave a point the most room."""

from __future__ import annotations

import torch
from torch import Tensor

_NEWTON_STEPS = 60
_TIGHTENINGS = 12
_SMALLEST, _LARGEST = 2.0**-20, 2.0**20
"""Where `smallest_range` starts and gives up."""


def center(normals: Tensor, offsets: Tensor, signs: Tensor, *, low: float, high: float) -> Tensor:
    """The analytic center of the points that satisfy all inequalities, (d,).

    Parameters
    ----------
    normals, offsets : Tensor of shape (k, d), (k,)
        ``normals @ x + offsets > 0``.
    signs : Tensor of shape (d,)
        -1, 0 or 1; a zero fixes the coordinate at zero.
    low, high : float
        The box.

    Examples
    --------
    >>> center(torch.tensor([[1.0], [-1.0]]), torch.tensor([-0.2, 0.4]), torch.ones(1), low=0.0, high=1.0)
    tensor([0.3089], dtype=torch.float64)
    """
    a, b, middle, free = _polytope(normals, offsets, signs, low, high)
    x = torch.zeros(len(signs), dtype=torch.float64)
    x[free] = _newton(a, b, _inside(a, b, middle))
    return x


def smallest_range(normals: Tensor, offsets: Tensor, signs: Tensor) -> float:
    """About the smallest r for which a point with all coordinates in [-r, r] satisfies the inequalities.

    Parameters
    ----------
    normals, offsets, signs : Tensor
        As in `center`.

    Returns
    -------
    float
        Up to 5 % too large; about 1e6 if no point satisfies them.

    Examples
    --------
    >>> 3.0 <= smallest_range(torch.tensor([[1.0]]), torch.tensor([-3.0]), torch.ones(1)) <= 3.2
    True
    """

    def holds(size: float) -> bool:
        a, b, middle, _ = _polytope(normals, offsets, signs, -size, size)
        return float((a @ _inside(a, b, middle) + b).min()) > 0

    high = _SMALLEST
    while high < _LARGEST and not holds(high):
        high *= 4
    low = high / 4
    while high / low > 1.05:
        between = (low * high) ** 0.5
        low, high = (low, between) if holds(between) else (between, high)
    return high


def _polytope(
    normals: Tensor, offsets: Tensor, signs: Tensor, low: float, high: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """``a x + b > 0``, rows of length 1, for the coordinates that are free; middle of their box, places."""
    free = (signs != 0).nonzero().reshape(-1)
    lower = torch.where(signs > 0, max(low, 0.0), low)[free].double()
    upper = torch.where(signs < 0, min(high, 0.0), high)[free].double()
    unit = torch.eye(len(free), dtype=torch.float64)
    a = torch.cat([normals.double()[:, free], unit, -unit])
    b = torch.cat([offsets.double(), -lower, upper])
    length = a.norm(dim=1)
    return (
        a[length > 0] / length[length > 0, None],
        b[length > 0] / length[length > 0],
        (lower + upper) / 2,
        free,
    )


def _inside(a: Tensor, b: Tensor, x: Tensor) -> Tensor:
    """A point with all of ``a x + b`` positive, or the one with the largest smallest entry if there is none.

    Phase one of the barrier method (Boyd and Vandenberghe, Convex Optimization, section 11.4): raise s in
    ``a x + b - s > 0`` along the central path until it is positive.
    """
    slack = float((a @ x + b).min())
    if slack > 0:
        return x
    wide = torch.cat([a, -torch.ones(len(a), 1, dtype=a.dtype)], dim=1)
    point = torch.cat([x, torch.tensor([slack - 1.0], dtype=a.dtype)])
    pull = torch.zeros_like(point)
    pull[-1] = -len(a) / max(1.0, -slack)
    for _ in range(_TIGHTENINGS):
        point = _newton(wide, b, point, pull)
        if float(point[-1]) > 0:
            break
        pull = 4 * pull
    return point[:-1]


def _newton(a: Tensor, b: Tensor, x: Tensor, pull: Tensor | None = None) -> Tensor:
    """Newton's method on ``pull x - sum log(a x + b)`` from inside; a start outside is returned."""
    if float((a @ x + b).min()) <= 0:
        return x
    for _ in range(_NEWTON_STEPS):
        scaled = a / (a @ x + b)[:, None]
        gradient = -scaled.sum(0) if pull is None else pull - scaled.sum(0)
        step = -torch.linalg.lstsq(scaled.T @ scaled, gradient[:, None]).solution[:, 0]
        decrement = float(-gradient @ step)
        size = 1.0 if decrement < 0.25 else 1.0 / (1.0 + decrement**0.5)  # stays inside (Nesterov)
        x = x + size * step
        if decrement < 1e-10:
            break
    return x
