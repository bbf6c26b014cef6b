"""Lesson 2: recover Bob's two points from his answers.

Bob has two points x_1, x_2 with two features each, and their targets y_1, y_2. The server sends a linear
model f(x) = w·x + b, Bob answers with the gradient of the sum of (f(x_i) - y_i)², and the server may do this
several times.

Write z = (x, 1) and theta = (w, b), so that f(x) = z·theta. Then Bob's answer is

    g(theta) = 2 · (A theta - c),    A = sum of z_i z_i^T  (3 × 3, symmetric),    c = sum of y_i z_i  (3).

A and c are all that the server can ever learn. That is enough.
"""

from __future__ import annotations

import torch
from torch import Tensor


def gradient(points: Tensor, targets: Tensor, theta: Tensor) -> Tensor:
    """Bob's answer to the model `theta`.

    Parameters
    ----------
    points : Tensor of shape (2, 2)
    targets : Tensor of shape (2,)
    theta : Tensor of shape (3,)
        Two weights and the bias.

    Returns
    -------
    Tensor of shape (3,)
        Of the *sum* of the squared errors.

    Hint: append a column of ones to the points and use the formula above.
    """
    raise NotImplementedError


def moments(models: Tensor, gradients: Tensor) -> tuple[Tensor, Tensor]:
    """What the server learns: A and c, from several models and Bob's answers to them.

    Parameters
    ----------
    models : Tensor of shape (visits, 3)
        Four visits or more, in general position.
    gradients : Tensor of shape (visits, 3)

    Returns
    -------
    A : Tensor of shape (3, 3)
    c : Tensor of shape (3,)

    Hint: g/2 = A theta - c is linear in (A, c). With a column of -1 beside the models it is one least-squares
    problem.
    """
    raise NotImplementedError


def count(a: Tensor) -> int:
    """How many points Bob has.

    Parameters
    ----------
    a : Tensor of shape (3, 3)
        The matrix A.

    Hint: which entry of A is the sum of 1 · 1 over the points?
    """
    raise NotImplementedError


def points(a: Tensor, c: Tensor) -> Tensor:
    """Bob's two points.

    Parameters
    ----------
    a : Tensor of shape (3, 3)
    c : Tensor of shape (3,)
        Not needed here: A alone tells the points. (c then tells their targets.)

    Returns
    -------
    Tensor of shape (2, 2)
        In any order.

    Hint: the last column of A holds the sum of the points: the mean m is half of it. The two points are m + d
    and m - d, and the upper left block of A minus 2 m m^T is 2 d d^T, a matrix of rank one: eigenvector the
    direction of d, eigenvalue 2 |d|².
    """
    raise NotImplementedError
