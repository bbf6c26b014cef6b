"""Several reconstructions of one table as one: rows brought into the same order, then a vote on every cell.

M. Vero, M. Balunović, D. I. Dimitrov, M. Vechev, "TabLeak: Tabular Data Leakage in Federated Learning",
ICML 2023, https://arxiv.org/abs/2210.01785.
"""

from __future__ import annotations

import math

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from fedpriv.wire.table import TableSchema


def align(members: Tensor, anchor: Tensor, labels: Tensor, schema: TableSchema) -> Tensor:
    """Bring the rows of every member into the order of the anchor: least total distance, labels kept.

    The gradient is a mean over rows, so each search finds them in an order of its own. Two rows are as far
    apart as the total variation of their categories and the differences of their numbers in standard
    deviations, each cell at most 1.

    Parameters
    ----------
    members : Tensor of shape (K, n, width)
    anchor : Tensor of shape (n, width)
    labels : Tensor of shape (n,)
        The same for all members.
    schema : TableSchema

    Returns
    -------
    Tensor of shape (K, n, width)

    Examples
    --------
    >>> from fedpriv.wire.table import Categorical
    >>> schema = TableSchema((Categorical(name="a", values=("x", "y", "z")),))
    >>> one, labels = torch.eye(3), torch.zeros(3, dtype=torch.int64)
    >>> align(one[None, [2, 0, 1]], one, labels, schema).argmax(2)
    tensor([[0, 1, 2]])
    """
    foreign = (labels[:, None] != labels[None]).to(anchor) * (len(schema.columns) + 1)
    aligned = []
    for member in members:
        distance = foreign.clone()
        for group in schema.groups:
            distance += (anchor[:, None, group] - member[None, :, group]).abs().sum(-1) / 2
        for place in schema.numbers:
            distance += (anchor[:, None, place] - member[None, :, place]).abs().clamp(max=1)
        _, columns = linear_sum_assignment(distance.cpu().numpy())
        aligned.append(member[torch.from_numpy(columns).to(member.device)])
    return torch.stack(aligned)


def pool(members: Tensor, schema: TableSchema) -> tuple[Tensor, Tensor]:
    """The vote over aligned members, and the doubt about each cell.

    Parameters
    ----------
    members : Tensor of shape (K, n, width)
    schema : TableSchema

    Returns
    -------
    inputs : Tensor of shape (n, width)
        Valid rows.
    entropy : Tensor of shape (n, columns), float64
        Doubt about each cell, see `attacks.matching.tableak.Ensemble`.
    """
    mean, middle = members.mean(0), members.quantile(0.5, dim=0)
    spread = members.double().std(0, unbiased=False)
    pooled, doubts = mean.clone(), []
    for place in schema.places:
        if place.start in schema.numbers:
            pooled[:, place] = middle[:, place]
            doubts.append(spread[:, place.start].clamp(max=1))
        else:
            shares = mean[:, place].double()
            doubts.append(torch.special.entr(shares).sum(-1) / math.log(shares.shape[1]))
    return schema.nearest(pooled), torch.stack(doubts, dim=1)
