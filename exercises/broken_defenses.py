"""Lesson 9: complete what top-k pruning left over.

Bob sends only the largest entries of his gradient; the others arrive as zeros. The first layer's gradient is
delta x^T, and its bias gradient is delta: each pixel is there once for each neuron.
"""

from __future__ import annotations

import torch
from torch import Tensor


def arrived(pruned: Tensor) -> Tensor:
    """Which entries were sent.

    Parameters
    ----------
    pruned : Tensor
        With zeros where nothing was sent. Entries that were sent are not zero.

    Returns
    -------
    Tensor of bool, of the same shape
    """
    raise NotImplementedError


def pixels(weight_gradient: Tensor, bias_gradient: Tensor) -> Tensor:
    """The picture, from the entries that arrived.

    Parameters
    ----------
    weight_gradient : Tensor of shape (neurons, features)
        Pruned.
    bias_gradient : Tensor of shape (neurons,)
        Pruned.

    Returns
    -------
    Tensor of shape (features,)
        Pixel j from all neurons i of which both dW_ij and db_i arrived; 0 where there is none. (An entry that
        is zero because the pixel is black does not arrive either.)

    Hint: least squares for each pixel: sum of db_i dW_ij divided by sum of db_i², over the neurons where
    dW_ij arrived.
    """
    raise NotImplementedError


def unclipped(update: Tensor, true_last_bias_sum: float, clipped_last_bias_sum: float) -> Tensor:
    """An update before it was clipped, when one number of it is known.

    Parameters
    ----------
    update : Tensor
        The true update times an unknown factor between 0 and 1.
    true_last_bias_sum : float
        A number that is known of the true update, such as the size of the entry of the true class.
    clipped_last_bias_sum : float
        The same number in the clipped update.

    Hint: clipping loses one number, the factor.
    """
    raise NotImplementedError
