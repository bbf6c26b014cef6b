"""The first linear layer as a matrix of rank one with gaps: every row is ``delta_i (x, 1)``.

``dL/dW_i = delta_i x`` and ``dL/db_i = delta_i`` for one sample. A defense that drops entries or adds noise
leaves far more equations than the d unknowns; several rounds on the same sample stack up, whatever their
models, because only the deltas change.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from attacks.adaptive.evidence import arrived
from attacks.base import NotIdentifiable
from attacks.exact.count import told_count
from attacks.exact.first_layer import first_layer_gradient
from attacks.replay import input_layer, parameter_name
from fedpriv.wire import Observation

_SWEEPS = 60


class Rows(NamedTuple):
    """Rows (m, d + 1) of ``[dL/dW, dL/db]`` in float64, which entries arrived, and the input shape."""

    values: Tensor
    mask: Tensor
    shape: tuple[int, ...]

    def stacked_on(self, others: Sequence[Rows]) -> Rows:
        """All rows of several rounds."""
        every = (self, *others)
        return Rows(torch.cat([r.values for r in every]), torch.cat([r.mask for r in every]), self.shape)


class Fit(NamedTuple):
    """Input x (d,), which coordinates are determined (d,), deltas (m,), relative misfit of the entries."""

    inputs: Tensor
    known: Tensor
    deltas: Tensor
    misfit: float


def rows_of(observation: Observation) -> Rows:
    """The rows of one round.

    Raises
    ------
    NotIdentifiable
        If there is no first linear layer with a bias, it is frozen, or it has a single neuron.
    """
    observation, masks = arrived(observation)
    weight, bias, shape = first_layer_gradient(observation)
    if len(bias) == 1 and told_count((observation,)) is None:
        raise NotIdentifiable(
            "the first layer has one neuron, whose gradient mixes any number of samples without a trace"
        )
    found = input_layer(observation)
    assert not isinstance(found, str)  # first_layer_gradient refuses that
    parts = [masks[parameter_name(found[0], kind)] for kind in ("weight", "bias")]
    return Rows(torch.cat([weight, bias[:, None]], 1), torch.cat([parts[0], parts[1][:, None]], 1), shape)


def rows_of_all(observations: Sequence[Observation]) -> Rows:
    """The rows of all rounds on one sample."""
    first, *others = [rows_of(o) for o in observations]
    return first.stacked_on(others)


def fit_rows(rows: Rows, weights: Tensor | None = None) -> Fit:
    """Weighted least squares for x over all entries that arrived.

    Known values spread from the bias column (where x has the value 1) to every row with a bias, from there
    to every column that shares an entry with such a row, and so on; alternating least squares then uses all
    entries at once. If no bias arrived, the strongest row starts, and x is found up to its scale.

    Parameters
    ----------
    rows : Rows
    weights : Tensor of shape (m, d + 1), optional
        Inverse variances of the entries; equal if not given.

    Returns
    -------
    Fit

    Examples
    --------
    >>> x, deltas = torch.tensor([2.0, 3.0, 1.0]).double(), torch.tensor([1.0, -2.0]).double()
    >>> mask = torch.tensor([[True, False, True], [False, True, True]])
    >>> fit_rows(Rows(torch.outer(deltas, x) * mask, mask, (2,))).inputs
    tensor([2., 3.], dtype=torch.float64)
    """
    weight = rows.mask.double() if weights is None else weights * rows.mask
    values = rows.values * rows.mask
    x, deltas = _spread(values, weight)
    for _ in range(_SWEEPS):
        before = x
        deltas = _solve(values, weight, x)
        x = _solve(values.T, weight.T, deltas)
        x = x / x[-1] if float(x[-1]) else x
        if float((x - before).norm()) <= 1e-15 * float(x.norm()):
            break
    deltas = _solve(values, weight, x)
    known = weight.T @ deltas.square() > 0
    # Only what hangs together with the start is compared: the rest has no common scale with it.
    common = weight.sqrt() * (deltas != 0)[:, None] * known
    left = ((values - torch.outer(deltas, x)) * common).norm() / (values * common).norm().clamp_min(1e-300)
    return Fit(x[:-1], known[:-1], deltas, float(left))


def best_rank_one(rows: Rows) -> Fit:
    """The maximum likelihood estimate under equal Gaussian noise: the nearest matrix of rank one.

    C. Eckart, G. Young, "The approximation of one matrix by another of lower rank", Psychometrika 1, 1936.
    """
    left, values, right = torch.linalg.svd(rows.values, full_matrices=False)
    scale = right[0, -1]
    known = torch.ones(rows.values.shape[1] - 1, dtype=torch.bool)
    misfit = float(values[1:].norm() / values.norm()) if len(values) > 1 else 0.0
    return Fit(right[0, :-1] / scale, known, left[:, 0] * values[0] * scale, misfit)


def _solve(values: Tensor, weight: Tensor, known: Tensor) -> Tensor:
    """For every row the factor that fits ``values[i] = factor_i * known``; 0 where nothing tells."""
    size = weight @ known.square()
    solved: Tensor = (values * weight) @ known / size.clamp_min(1e-300)
    return torch.where(size > 0, solved, 0.0)


def _spread(values: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """First values of x (d + 1) and the deltas (m), along the entries that arrived."""
    x = torch.zeros(values.shape[1], dtype=values.dtype)
    if bool((values[:, -1] * weight[:, -1]).any()):
        x[-1] = 1.0
    else:
        x = x + values[(values.square() * weight).sum(1).argmax()]
    reached, deltas = 0, _solve(values, weight, x)
    while int((x != 0).sum()) > reached:
        reached = int((x != 0).sum())
        found = _solve(values.T, weight.T, deltas)
        x = torch.where(x == 0, found, x)
        new = _solve(values, weight, x)
        deltas = torch.where(deltas == 0, new, deltas)
    return x, deltas
