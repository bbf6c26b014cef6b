"""Lesson 1: who holds what, and one step of training at Bob's.

Use `fedpriv.pointers.send` and `fedpriv.pointers.get` (or `.send` and `.get` of a tensor after `TorchHook`).
"""

from __future__ import annotations

import torch
from torch import Tensor

import fedpriv


def place(value: Tensor) -> str:
    """Where a tensor is.

    Returns
    -------
    str
        The id of the worker that holds it, or "here" for an ordinary tensor.

    Hint: a pointer is a `fedpriv.PointerTensor` and has a `location`.
    """
    raise NotImplementedError


def total(pointers: list[Tensor]) -> Tensor:
    """The sum of public values that are at different workers; only one number may leave each worker.

    Parameters
    ----------
    pointers : list of PointerTensor
        Of any shapes.

    Returns
    -------
    Tensor
        One number, here.

    Hint: sum at the worker first, then get.
    """
    raise NotImplementedError


def train_step(weights: Tensor, data: Tensor, target: Tensor, lr: float) -> Tensor:
    """One step of gradient descent on ((data @ weights - target)²).sum(), computed where the data are.

    Parameters
    ----------
    weights : Tensor of shape (d, 1)
        Here.
    data : PointerTensor of shape (n, d)
    target : PointerTensor of shape (n, 1)
        At the same worker, not private.
    lr : float

    Returns
    -------
    Tensor of shape (d, 1)
        The new weights, here. The data must not be fetched.

    Hint: send the weights, let autograd do the rest, get the result. A leaf needs ``requires_grad_()``.
    """
    raise NotImplementedError
