"""Tables: how many cells came back, and how many a guess would have had right.

The measure of M. Vero et al., "TabLeak", ICML 2023: a categorical cell is right if it is the true category, a
continuous one if it is within 0.319 standard deviations of the truth. The number is that of the authors'
public code (``create_tolerance_map`` in ``datasets/base_dataset.py``); with it a guess of the mean is right
once in four times if the column is normal. Rows have no order in a gradient, so they are paired such that the
most cells are right. Guesses are paired in the same way, which lifts them: a baseline belongs beside every
figure.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from fedpriv.wire.table import Categorical, TableSchema

TOLERANCE = 0.319
"""Standard deviations within which a continuous cell counts as right."""


@dataclass(frozen=True, eq=False, kw_only=True)
class CellScore:
    """Which cells of a table were reconstructed.

    Parameters
    ----------
    right : bool Tensor of shape (n, columns)
        In the order of the true rows; all False for a row that was not found.
    assignment : int64 Tensor of shape (n,)
        For every true row the index of its estimate, or -1.
    categorical : bool Tensor of shape (columns,)
        Which columns are categorical.
    """

    right: Tensor
    assignment: Tensor
    categorical: Tensor

    @property
    def accuracy(self) -> float:
        """Share of all cells that are right."""
        return float(self.right.double().mean())

    @property
    def categories(self) -> float:
        """Share of the categorical cells that are right; NaN without such columns."""
        return float(self.right[:, self.categorical].double().mean())

    @property
    def numbers(self) -> float:
        """Share of the continuous cells that are right; NaN without such columns."""
        return float(self.right[:, ~self.categorical].double().mean())

    @property
    def rows(self) -> float:
        """Share of the rows that are right in every cell."""
        return float(self.right.all(1).double().mean())


def score_cells(
    estimates: Tensor, truth: Tensor, schema: TableSchema, *, tolerance: float = TOLERANCE
) -> CellScore:
    """Compare reconstructed rows with the true ones, cell by cell.

    Parameters
    ----------
    estimates : Tensor of shape (m, width)
        Encoded rows, made valid first: the largest of a group counts, and numbers are brought into range.
        Rows with NaN or infinity count as not found.
    truth : Tensor of shape (n, width)
        The true rows, valid.
    schema : TableSchema
    tolerance : float, default 0.319
        In standard deviations of a continuous column.

    Returns
    -------
    CellScore

    Raises
    ------
    ValueError
        If the shapes do not belong to the schema or the truth is empty.

    Examples
    --------
    >>> from fedpriv.wire.table import Categorical, Continuous
    >>> schema = TableSchema(
    ...     (
    ...         Categorical(name="sex", values=("female", "male")),
    ...         Continuous(name="age", low=0, high=100, mean=40, std=20),
    ...     )
    ... )
    >>> truth = schema.encode([("male", 60.0), ("female", 20.0)])
    >>> found = schema.encode([("female", 25.0), ("male", 70.0)])
    >>> score_cells(found, truth, schema).right
    tensor([[ True, False],
            [ True,  True]])
    """
    if truth.dim() != 2 or not len(truth) or not bool(truth.isfinite().all()):
        raise ValueError(
            f"expected finite true rows (n, {schema.width}), got a tensor of shape {tuple(truth.shape)} "
            f"that is empty or holds NaN or infinity"
        )
    estimates = estimates.detach().cpu().to(torch.float64).flatten(1)
    usable = estimates.isfinite().all(1).nonzero()[:, 0]
    right = torch.zeros(len(truth), len(schema.columns), dtype=torch.bool)
    assignment = torch.full((len(truth),), -1, dtype=torch.int64)
    if len(usable):
        agree = matching_cells(
            estimates[usable][None], truth.detach().cpu().double()[:, None], schema, tolerance=tolerance
        )
        rows, columns = linear_sum_assignment(agree.sum(-1).numpy(), maximize=True)
        right[rows] = agree[rows, columns]
        assignment[rows] = usable[columns]
    categorical = torch.tensor([isinstance(c, Categorical) for c in schema.columns])
    return CellScore(right=right, assignment=assignment, categorical=categorical)


def matching_cells(
    one: Tensor, other: Tensor, schema: TableSchema, *, tolerance: float = TOLERANCE
) -> Tensor:
    """Which cells agree, for rows (..., width) that are paired already; shape (..., columns) of bool."""
    one, other = schema.nearest(one), schema.nearest(other)
    cells = []
    for column, place in zip(schema.columns, schema.places, strict=True):
        if isinstance(column, Categorical):
            cells.append(one[..., place].argmax(-1) == other[..., place].argmax(-1))
        else:
            # Two cells exactly a tolerance apart are right, whatever rounding makes of it.
            cells.append((one[..., place.start] - other[..., place.start]).abs() <= tolerance * (1 + 1e-9))
    return torch.stack(cells, dim=-1)


def guess_typical(public: Tensor, count: int, schema: TableSchema) -> Tensor:
    """The row of the most frequent categories and mean numbers, `count` times: (count, width).

    Parameters
    ----------
    public : Tensor of shape (m, width)
        Rows like those that are sought, from which frequencies are known.
    count : int
    schema : TableSchema
    """
    return schema.nearest(public.mean(0)).repeat(count, 1)


def guess_at_random(public: Tensor, count: int, schema: TableSchema, *, generator: torch.Generator) -> Tensor:
    """Rows whose cells are drawn each from its own column of `public`, independently: (count, width).

    The paper's baseline ("all empirical" in the authors' code): what someone guesses who knows how often
    every value occurs, and nothing else.
    """
    drawn = torch.empty(count, schema.width, dtype=public.dtype)
    for place in schema.places:
        chosen = torch.randint(len(public), (count,), generator=generator)
        drawn[:, place] = public[chosen, place]
    return drawn
