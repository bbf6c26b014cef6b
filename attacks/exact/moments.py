"""What least squares reveals: the second moments of the data, exactly, and the samples behind them.

A linear model with bias under a squared error sends back gradients ``g = A theta - c`` with the moments
``A = sum x~ x~^T`` and ``c = sum y x~`` of the extended samples ``x~ = (x, 1)``. Every gradient lies in the
span of the ``x~``. In coordinates of that span, of dimension r, the unknown A is a small symmetric r x r
matrix whose corner is the number of samples, and every visit is linear in (A, c): no iteration is needed,
and r visits suffice whatever the number of features. This module is plain linear algebra on NumPy arrays;
`attacks.exact.regression` turns observations into its inputs.

Derived in docs/tutorial_leak.md; we know of no paper that states it. The fact that gradients lie in the span
of the inputs is in Phong et al., "Privacy-Preserving Deep Learning via Additively Homomorphic Encryption",
IEEE TIFS 2018.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Visits:
    """The visits of one client, a row for every visit and output.

    Parameters
    ----------
    theta : array of shape (rows, d + 1)
        Weights and bias that were sent.
    gradient : array of shape (rows, d + 1)
        The answers, scaled so that ``gradient = A theta - c``.
    noise : array of shape (rows,)
        Standard deviation of one coordinate of each answer (rounding, or a defense's noise).
    output : int array of shape (rows,)
        The model output to which a row belongs; each output has its own c.
    """

    theta: Array
    gradient: Array
    noise: Array
    output: NDArray[np.int64]

    @property
    def num_outputs(self) -> int:
        """How many outputs the model has."""
        return int(self.output.max()) + 1


@dataclass(frozen=True, kw_only=True)
class Span:
    """The span of the extended samples: points ``origin + t @ directions`` have last coordinate 1.

    Parameters
    ----------
    origin : array of shape (d + 1,)
        The point of the span with last coordinate 1 that is nearest to zero.
    directions : array of shape (r - 1, d + 1)
        Orthonormal, with last coordinate 0.
    complete : bool
        Whether more visits cannot enlarge it: there were more rows than dimensions, or it is everything.
    singular_values : array
        Of the rows in units of their noise.
    """

    origin: Array
    directions: Array
    complete: bool
    singular_values: Array

    @property
    def rank(self) -> int:
        """The dimension r."""
        return len(self.directions) + 1

    def coordinates_of_answers(self, gradient: Array) -> Array:
        """``(b, h)`` with ``gradient = b origin + h @ directions``; shape (rows, r)."""
        return np.column_stack([gradient[:, -1], gradient @ self.directions.T])

    def coordinates_of_models(self, theta: Array) -> Array:
        """The products of the sent models with origin and directions; shape (rows, r)."""
        return np.column_stack([theta @ self.origin, theta @ self.directions.T])


@dataclass(frozen=True, kw_only=True)
class Moments:
    """Moments in the coordinates of a span: all that the answers determine.

    Parameters
    ----------
    second : array of shape (r, r)
        ``A`` in coordinates (1, t); its corner is the number of samples.
    mixed : array of shape (outputs, r)
        ``c``, one row for each output.
    corner_error : float
        Standard error of the corner, infinite where the visits do not determine it.
    """

    second: Array
    mixed: Array
    corner_error: float


def find_span(visits: Visits, *, safety: float = 6.0, rank: int | None = None) -> Span | None:
    """The space in which all answers lie, or None if it holds no point with last coordinate 1.

    Rows are divided by their noise, so singular values of pure noise stay below about
    ``sqrt(rows) + sqrt(columns)`` (Davidson and Szarek 2001); `safety` times that is the threshold. A known
    `rank` (under noise, where a threshold may miss a weak dimension) replaces it.
    """
    scaled = visits.gradient / visits.noise[:, None]
    _, values, right = np.linalg.svd(scaled, full_matrices=False)
    rows, columns = scaled.shape
    rank = rank or int((values > safety * (np.sqrt(rows) + np.sqrt(columns))).sum())
    if rank == 0:
        return None
    basis = right[:rank]
    last = basis[:, -1]
    length = np.linalg.norm(last)
    # An answer's last coordinate is the sum of the residuals. If it vanishes everywhere: no hyperplane.
    if length < 1e-12 or np.abs(visits.gradient[:, -1] / visits.noise).max() < safety:
        return None
    complement = np.linalg.svd(last[None, :])[2][1:]
    return Span(
        origin=last @ basis / length**2,
        directions=complement @ basis,
        complete=rank < rows or rank == columns,
        singular_values=values,
    )


def solve_moments(visits: Visits, span: Span, *, num_samples: float | None = None) -> Moments | None:
    """Weighted linear least squares for (A, c) in the span.

    Parameters
    ----------
    visits, span
        The data and the space of `find_span`.
    num_samples : float, optional
        Fixes the corner of A, which lets one visit fewer suffice.

    Returns
    -------
    Moments or None
        None if the visits do not determine them.
    """
    r, outputs = span.rank, visits.num_outputs
    design, answers = _linear_system(visits, span)
    unknown = np.ones(design.shape[1], dtype=bool)
    if num_samples is not None:
        answers = answers - design[:, 0] * num_samples
        unknown[0] = False
    left, values, right = np.linalg.svd(
        design[:, unknown] / _column_scale(design[:, unknown]), full_matrices=False
    )
    if len(values) < unknown.sum() or values[-1] < 1e-12 * values[0]:
        return None
    scale = _column_scale(design[:, unknown])
    solution = np.zeros(design.shape[1])
    solution[unknown] = right.T @ ((left.T @ answers) / values) / scale
    corner_error = (
        np.inf if num_samples is not None else float(np.linalg.norm(right[:, 0] / values) / scale[0])
    )
    second = np.zeros((r, r))
    second[np.triu_indices(r)] = solution[: r * (r + 1) // 2]
    second += np.triu(second, 1).T
    if num_samples is not None:
        second[0, 0] = num_samples
    mixed = solution[r * (r + 1) // 2 :].reshape(outputs, r)
    return Moments(second=second, mixed=mixed, corner_error=corner_error)


def _column_scale(design: Array) -> Array:
    scale: Array = np.linalg.norm(design, axis=0)
    scale[scale == 0] = 1.0
    return scale


def _linear_system(visits: Visits, span: Span) -> tuple[Array, Array]:
    """Rows ``A u - c = z`` in units of the noise; unknowns are the upper triangle of A, then c by output."""
    r, outputs = span.rank, visits.num_outputs
    u = span.coordinates_of_models(visits.theta)
    z = span.coordinates_of_answers(visits.gradient)
    upper = {(int(i), int(j)): k for k, (i, j) in enumerate(zip(*np.triu_indices(r), strict=True))}
    design = np.zeros((len(u), r, len(upper) + outputs * r))
    for i in range(r):
        for j in range(r):
            design[:, i, upper[min(i, j), max(i, j)]] += u[:, j]
        design[np.arange(len(u)), i, len(upper) + visits.output * r + i] = -1.0
    # Coordinate 0 is an entry of the answer; the others come from orthonormal directions: equal noise.
    weight = 1.0 / visits.noise
    return (design * weight[:, None, None]).reshape(-1, design.shape[2]), (z * weight[:, None]).reshape(-1)


def samples_of_two(moments: Moments) -> tuple[Array, Array] | None:
    """The two samples behind moments of rank two: roots of one quadratic equation.

    Returns
    -------
    tuple of arrays (2, 1) and (2, outputs), or None
        Coordinates t on the span and targets; None if the roots are not real.
    """
    mean = moments.second[0, 1] / 2
    spread = moments.second[1, 1] / 2 - mean**2
    if spread <= 0:
        return None
    t = mean + np.sqrt(spread) * np.array([1.0, -1.0])
    extended = np.column_stack([np.ones(2), t])  # rows (1, t_i)
    return t[:, None], np.linalg.solve(extended.T, moments.mixed.T)
