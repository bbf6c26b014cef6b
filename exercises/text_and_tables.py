"""Lesson 10: tokens from gradients, and how good a guess is."""

from __future__ import annotations

import torch
from torch import Tensor


def tokens_used(embedding_gradient: Tensor) -> list[int]:
    """Which tokens occur, from the gradient of the embedding table.

    Parameters
    ----------
    embedding_gradient : Tensor of shape (vocabulary, width)

    Returns
    -------
    list of int, ascending
    """
    raise NotImplementedError


def tokens_in_span(table: Tensor, gradient: Tensor, length: int) -> list[int]:
    """Which tokens occur, when the table is frozen and only the first linear layer's gradient is seen.

    Parameters
    ----------
    table : Tensor of shape (vocabulary, width)
        Public embeddings.
    gradient : Tensor of shape (neurons, width)
        sum of delta_i e_i^T over the positions; the e_i are rows of the table.
    length : int
        Number of different tokens.

    Returns
    -------
    list of int, ascending

    Hint: as in lesson 4: project every row of the table on the first `length` right singular vectors. A true
    token loses less than 1e-6 of its length.
    """
    raise NotImplementedError


def guess_accuracy(table: Tensor) -> float:
    """Share of the cells that a guess gets right: for each column its most frequent value.

    Parameters
    ----------
    table : Tensor of int, shape (rows, columns)

    Hint: `torch.mode` gives the most frequent value of a dimension.
    """
    raise NotImplementedError
