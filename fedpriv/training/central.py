"""The tutorial's first half: the same model trained where all the data lie in one place."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import nn

from fedpriv.defenses.randomness import given_or_fresh
from fedpriv.training.clients import clients_from
from fedpriv.training.local import check_loss
from fedpriv.training.seeding import seeded
from fedpriv.training.settings import check_rate
from fedpriv.wire.observation import LossFn


@dataclass(frozen=True, kw_only=True)
class CentralRun:
    """The outcome of central training.

    Parameters
    ----------
    model : nn.Module
        A trained copy of the model that was passed.
    losses : list of float
        The loss before each step.
    """

    model: nn.Module
    losses: list[float]


def train_centrally(
    model: nn.Module,
    loss_fn: LossFn,
    x: torch.Tensor,
    y: torch.Tensor,
    *,
    lr: float,
    steps: int,
    generator: torch.Generator | None = None,
) -> CentralRun:
    """Plain full-batch gradient descent.

    Parameters
    ----------
    model : nn.Module
        Copied, not changed.
    loss_fn : callable
        ``loss_fn(outputs, targets)`` giving one number.
    x, y : Tensor (n, ...)
        Inputs and targets, one sample a row.
    lr : float
        Learning rate.
    steps : int
        Gradient steps.
    generator : torch.Generator, optional
        For models with dropout; by default fresh entropy.

    Returns
    -------
    CentralRun

    Raises
    ------
    ValueError
        If the data or settings are unusable, or the training diverges.

    Examples
    --------
    >>> from fedpriv.losses import squared_error
    >>> model = nn.Linear(1, 1)
    >>> run = train_centrally(model, squared_error, torch.ones(2, 1), torch.zeros(2, 1), lr=0.1, steps=5)
    >>> run.losses[-1] < run.losses[0]
    True
    """
    check_rate(lr)
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 0:
        raise ValueError(f"steps must be a whole number of 0 or more, got {steps!r}")
    clients_from({"everyone": (x, y)})  # the same demands on the data as in federated training
    model, losses = copy.deepcopy(model), []
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    with seeded(given_or_fresh(generator), model):
        for _ in range(steps):
            optimizer.zero_grad()
            loss = loss_fn(model(x), y)
            losses.append(check_loss(loss))
            loss.backward()
            optimizer.step()
    return CentralRun(model=model, losses=losses)
