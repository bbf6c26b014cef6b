"""Lesson 4: count the samples of a batch and tell true samples from false ones.

The first layer's weight gradient is G = sum of delta_i x_i^T over the samples. With G the server has a space
of inputs (the span of the rows of G) in which all samples lie; with the second layer's gradient it has the
space of hidden vectors.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def batch_size(weight_gradient: Tensor) -> int:
    """How many samples the batch has.

    Parameters
    ----------
    weight_gradient : Tensor of shape (neurons, features), float64
        Of the first layer, with fewer samples than neurons and features.

    Hint: the rank. Rounding makes small singular values that should be zero: count those above 1e-9 of the
    largest.
    """
    raise NotImplementedError


def distance(vectors: Tensor, gradient: Tensor, rank: int) -> Tensor:
    """How far each vector is from the row space of a gradient, relative to its own length.

    Parameters
    ----------
    vectors : Tensor of shape (candidates, features)
    gradient : Tensor of shape (neurons, features)
    rank : int
        Dimension of the space: this many right singular vectors span it.

    Returns
    -------
    Tensor of shape (candidates,)
        Between 0 (inside) and 1 (orthogonal).

    Hint: U, S, Vh = torch.linalg.svd(gradient); the first `rank` rows of Vh are an orthonormal basis;
    subtract the projection.
    """
    raise NotImplementedError


def true_samples(candidates: Tensor, hidden: Callable[[Tensor], Tensor], g1: Tensor, g2: Tensor) -> Tensor:
    """Which candidates were in the batch.

    Parameters
    ----------
    candidates : Tensor of shape (candidates, features)
        Some are samples of the batch, some are mixtures of them, some are strangers, and some have the hidden
        vector of a sample without being one.
    hidden : callable
        Hidden vectors, shape (candidates, neurons), of candidates: the public first layer with its
        activation.
    g1, g2 : Tensor
        Weight gradients of the first and the second layer.

    Returns
    -------
    Tensor of bool, shape (candidates,)

    Hint: both distances below 1e-6. A mixture passes only the first test, other pixels that the first layer
    does not see pass only the second.
    """
    raise NotImplementedError
