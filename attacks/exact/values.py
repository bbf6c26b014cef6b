"""Moments plus a declared prior single out the data: values from a small set, sums that are known.

In the span of the data only finitely many points have all their coordinates in the declared set. How often
each of them occurs is an integer program with linear constraints, because moments are sums over samples; it
is solved by HiGHS through SciPy, for the smallest and for the largest value of a random objective: where both
ends agree, the solution is the only one.
"""

from __future__ import annotations

from itertools import product

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import qr
from scipy.optimize import Bounds, LinearConstraint, milp

from attacks.exact.moments import Array, Moments, Span

MAX_CANDIDATES = 2**16
TOLERANCE = 0.02
"""How far a coordinate may be from a declared value, relative to the distance between values."""


def solve_with_values(
    moments: Moments,
    span: Span,
    num_samples: int,
    input_values: tuple[float, ...],
    target_values: tuple[float, ...] | None,
    *,
    generator: torch.Generator,
) -> tuple[Array, Array | None] | str:
    """The only data set with these moments whose inputs (and targets) take declared values.

    Parameters
    ----------
    moments, span
        From `attacks.exact.moments`.
    num_samples : int
    input_values, target_values : tuple of float
        The declared prior; without one for targets they follow by least squares where that is unique.
    generator : torch.Generator
        Draws the random objective of the uniqueness test.

    Returns
    -------
    (inputs (n, d), targets (n, outputs) or None), or str
        A sentence that says why there is no unique solution.
    """
    t = candidates(span, input_values)
    if isinstance(t, str):
        return t
    second = moments.second * (num_samples / moments.second[0, 0])
    mixed = moments.mixed * (num_samples / moments.second[0, 0])
    extended = np.column_stack([np.ones(len(t)), t])
    r, outputs = span.rank, len(mixed)
    if target_values is None:
        labels = np.full((len(t), 1), np.nan)
    else:
        if len(target_values) ** outputs * len(t) > MAX_CANDIDATES:
            return (
                f"the prior leaves {len(target_values)}^{outputs} combinations of targets for each of "
                f"{len(t)} candidates, too many to search"
            )
        combinations = np.array(list(product(target_values, repeat=outputs)))
        labels = np.tile(combinations, (len(t), 1))
        extended = np.repeat(extended, len(combinations), axis=0)
    upper = np.triu_indices(r)
    rows = [(extended[:, i] * extended[:, j], second[i, j]) for i, j in zip(*upper, strict=True)]
    if target_values is not None:
        rows += [(extended[:, i] * labels[:, o], mixed[o, i]) for o in range(outputs) for i in range(r)]
    counts = unique_counts(
        np.array([a for a, _ in rows]), np.array([b for _, b in rows]), num_samples, generator
    )
    if isinstance(counts, str):
        return counts
    chosen = np.repeat(np.arange(len(counts)), counts)
    basis = np.vstack([span.origin, span.directions])
    inputs = nearest((extended[chosen] @ basis)[:, :-1], input_values)
    if target_values is not None:
        return inputs, labels[chosen]
    if np.linalg.matrix_rank(extended[chosen], tol=1e-6) < num_samples:
        return inputs, None
    return inputs, np.linalg.lstsq(extended[chosen].T, mixed.T, rcond=None)[0]


def candidates(span: Span, values: tuple[float, ...]) -> Array | str:
    """Coordinates t (m, r - 1) of every point of the span whose coordinates are all among `values`."""
    free = span.rank - 1
    if len(values) ** free > MAX_CANDIDATES:
        return f"the prior leaves {len(values)}^{free} candidates in {free} dimensions, too many to list"
    directions, origin = span.directions[:, :-1], span.origin[:-1]
    # Column pivoting picks the features that determine t best.
    pivots = qr(directions, pivoting=True, mode="r")[1][:free] if free else np.array([], dtype=int)
    grid = np.array(list(product(values, repeat=free))).reshape(-1, free)
    t = np.linalg.solve(directions[:, pivots].T, (grid - origin[pivots]).T).T if free else np.zeros((1, 0))
    points = origin + t @ directions
    gap = np.diff(np.sort(values)).min()
    fits = np.abs(points - nearest(points, values)).max(axis=1) < TOLERANCE * gap
    return (
        t[fits]
        if fits.any()
        else "no point of the data's span has only the declared values; is the prior right?"
    )


def nearest(points: Array, values: tuple[float, ...]) -> Array:
    """Every coordinate replaced by the nearest declared value."""
    allowed = np.array(values)
    rounded: Array = allowed[np.abs(points[..., None] - allowed).argmin(axis=-1)]
    return rounded


def unique_counts(
    matrix: Array, right: Array, num_samples: int, generator: torch.Generator
) -> NDArray[np.int64] | str:
    """Whole numbers m >= 0 with ``matrix @ m = right`` up to rounding, if only one vector has them."""
    slack = 1e-3 * np.maximum(1.0, np.abs(right))
    objective = torch.rand(matrix.shape[1], generator=generator, dtype=torch.float64).numpy()
    common = {
        "constraints": LinearConstraint(matrix, right - slack, right + slack),
        "integrality": np.ones(matrix.shape[1]),
        "bounds": Bounds(0, num_samples),
        "options": {"time_limit": 30.0, "mip_rel_gap": 0.0},  # a gap would let both ends stop at one solution
    }
    ends = [milp(sign * objective, **common) for sign in (1.0, -1.0)]
    if any(end.status == 2 for end in ends):
        return f"no {num_samples} samples with the declared values have these moments; is the prior right?"
    if any(end.x is None or end.status != 0 for end in ends):
        return "the search for data with the declared values ran out of time"
    low, high = (np.rint(end.x).astype(np.int64) for end in ends)
    if not np.array_equal(low, high):
        return "several data sets with the declared values have these moments, so none is certain"
    counts: NDArray[np.int64] = low
    return counts
