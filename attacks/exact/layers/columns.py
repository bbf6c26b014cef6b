"""The 0/1 columns of a sum of active patches, found by candidates that predict their own column.

All vectors are in coordinates of the row space: a row is ``mask @ patches``, and with the count of active
positions as one more coordinate every patch has a one there, which also carries the bias.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

_DRAWS = 40_000
_ROUNDS = 20
_CHUNK = 20_000


def find_columns(space: Tensor, rows: Tensor, kernel: Tensor, counts: Tensor) -> Tensor:
    """Mask columns whose patch is a small combination of rows, peeling what is found.

    Parameters
    ----------
    space : Tensor of shape (channels, rank)
        Orthonormal basis of the span of the mask columns.
    rows : Tensor of shape (channels, rank)
        Sums of active patches, in coordinates.
    kernel : Tensor of shape (channels, rank)
        ``kernel @ patch`` is the output of every channel at that patch, bias included.
    counts : Tensor of shape (channels,)
        How many positions are active in each channel.

    Returns
    -------
    Tensor of shape (channels, found)
        Different 0/1 columns of the span; at most rank many.
    """
    generator = torch.Generator().manual_seed(0)
    columns = torch.zeros(len(rows), 0, dtype=torch.float64)
    patches = torch.zeros(0, rows.shape[1], dtype=torch.float64)
    for _ in range(_ROUNDS):
        rest = rows - columns @ patches
        left = (counts - columns.sum(dim=1)).round()
        before = len(patches)
        for candidates in _candidates(rest, left, generator):
            columns, patches = _accept(candidates, space, kernel, columns, patches)
            if len(patches) > before:
                break
        if len(patches) in (before, space.shape[1]):
            break
    return columns


def _candidates(rows: Tensor, counts: Tensor, generator: torch.Generator) -> Iterator[Tensor]:
    """Rows with one active position; differences of rows by one position; ``a + b - c`` at random."""
    yield rows[counts == 1]
    first, second = torch.nonzero(counts[:, None] - counts == 1, as_tuple=True)
    yield from (rows[first] - rows[second]).split(_CHUNK)
    a, b, c = torch.randint(len(rows), (3, _DRAWS), generator=generator)
    fits = (counts[a] + counts[b] - counts[c] == 1) & (a != c) & (b != c)
    yield rows[a[fits]] + rows[b[fits]] - rows[c[fits]]
    fits = counts[a] - counts[b] - counts[c] == 1
    yield rows[a[fits]] - rows[b[fits]] - rows[c[fits]]


def _accept(
    candidates: Tensor, space: Tensor, kernel: Tensor, columns: Tensor, patches: Tensor
) -> tuple[Tensor, Tensor]:
    """Add the candidates whose predicted column lies in the span, each column once."""
    predicted = (candidates @ kernel.T > 0).double()
    inside = (predicted @ space) @ space.T
    # An output next to zero may be predicted on the wrong side. One wrong entry leaves the span by less than
    # one; a wrong patch disagrees in many channels. The nearest 0/1 column is then tested strictly.
    near = (predicted - inside).square().sum(dim=1) < 1.5
    nearest = inside[near].round().clamp(0, 1)
    strict = (nearest - (nearest @ space) @ space.T).norm(dim=1) < 1e-3 * nearest.norm(dim=1)
    for column, patch in zip(nearest[strict], candidates[near][strict], strict=True):
        grown = torch.cat([columns, column[:, None]], dim=1)
        if int(torch.linalg.matrix_rank(grown, rtol=1e-6)) == grown.shape[1]:
            columns, patches = grown, torch.cat([patches, patch[None]])
    return columns, patches
