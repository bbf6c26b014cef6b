"""Lesson 3: a picture and its label out of one gradient.

The first layer computes h = W x + b. Its gradients are dW = delta x^T (matrix) and db = delta (vector), where
delta depends on everything behind it. The last layer's bias has the gradient p - e_y for cross-entropy.
"""

from __future__ import annotations

import torch
from torch import Tensor


def picture(weight_gradient: Tensor, bias_gradient: Tensor) -> Tensor:
    """The picture.

    Parameters
    ----------
    weight_gradient : Tensor of shape (neurons, pixels)
    bias_gradient : Tensor of shape (neurons,)
        Zero for neurons that were off.

    Returns
    -------
    Tensor of shape (pixels,)

    Hint: divide a row by its number. Which row is safe to divide? The one with the largest number, or use all
    rows: dW^T db / |db|².
    """
    raise NotImplementedError


def label(last_bias_gradient: Tensor) -> int:
    """The class of the picture.

    Parameters
    ----------
    last_bias_gradient : Tensor of shape (classes,)
        p - e_y, where p are probabilities.

    Hint: what is the sign of p_k - 1, and of p_k?
    """
    raise NotImplementedError


def picture_without_bias(weight_gradient: Tensor) -> Tensor:
    """The picture when the first layer has no bias, as far as it is determined.

    Parameters
    ----------
    weight_gradient : Tensor of shape (neurons, pixels)
        delta x^T with unknown delta.

    Returns
    -------
    Tensor of shape (pixels,)
        Pixels are between 0 and 1, and the brightest one is 1: this fixes the sign and the scale.

    Hint: every row is a multiple of the picture; take the longest and divide by the entry of the largest
    size.
    """
    raise NotImplementedError
