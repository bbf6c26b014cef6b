"""Lesson 6: a weighted mean, what differences of means tell, and a defense that does nothing.

An update is a dictionary from names of parameters to tensors.
"""

from __future__ import annotations

import torch
from torch import Tensor

Update = dict[str, Tensor]


def weighted_mean(updates: list[Update], num_samples: list[int]) -> Update:
    """The mean that equals the gradient of everybody's samples together.

    Parameters
    ----------
    updates : list of Update
        Each the gradient of the *mean* loss over a client's samples.
    num_samples : list of int

    Returns
    -------
    Update
        Of new tensors: what came in stays as it is.

    Hint: the gradient of the mean over all samples weighs a client by its share of the samples.
    """
    raise NotImplementedError


def one_left(before: Update, total_before: int, after: Update, total_after: int) -> Update:
    """The update of a client who took part in the first mean and not in the second; all else is the same.

    Parameters
    ----------
    before, after : Update
        Weighted means of all, and of all but one.
    total_before, total_after : int
        Numbers of samples in them.

    Hint: turn means into sums, subtract, divide by what the client has.
    """
    raise NotImplementedError


def clip(update: Update, clip_norm: float) -> Update:
    """Shorten an update whose length, over all parameters together, is above `clip_norm`.

    This one was shipped. It passes its author's tests and does nothing, and to one update it does harm:

        for tensor in update.values():
            norm = tensor.norm()
            tensor = tensor * min(1.0, clip_norm / norm)
        return update

    Write it right: joint length, no change to what came in, zero updates stay zero.
    """
    raise NotImplementedError
