"""Lesson 3: a picture and its label out of one gradient: the answer."""

from __future__ import annotations

import torch
from torch import Tensor


def picture(weight_gradient: Tensor, bias_gradient: Tensor) -> Tensor:
    """Least squares over all rows."""
    return weight_gradient.T @ bias_gradient / bias_gradient.square().sum()


def label(last_bias_gradient: Tensor) -> int:
    """The only negative entry."""
    return int(last_bias_gradient.argmin())


def picture_without_bias(weight_gradient: Tensor) -> Tensor:
    """The longest row, scaled so that its brightest pixel is one."""
    row = weight_gradient[weight_gradient.norm(dim=1).argmax()]
    return row / row[row.abs().argmax()]
