"""Lesson 8: noise for a budget, and what it buys.

`fedpriv.privacy` computes epsilons; here you use it, and derive the bound for a guess among candidates.
"""

from __future__ import annotations

import torch
from torch import Tensor

import fedpriv


def sensitivity(clip_norm: float, num_clients: int, *, replace: bool) -> float:
    """How far the *mean* of clipped updates moves when one client changes.

    Parameters
    ----------
    clip_norm : float
        Each update has at most this length.
    num_clients : int
        Divides the sum; it is public and does not change.
    replace : bool
        True: the client's data are replaced by any other. False: the client is there, or zero in its place.

    Hint: how far apart can two vectors of length C be? And a vector from zero?
    """
    raise NotImplementedError


def multiplier(epsilon: float, delta: float, rounds: int) -> float:
    """The smallest noise multiplier, to 0.1 %, with which `rounds` rounds cost at most `epsilon`.

    Hint: `fedpriv.privacy.epsilon` falls as the multiplier grows: bisect between 0.1 and 1000.
    """
    raise NotImplementedError


def best_guess(prior_success: float, noise_multiplier: float) -> float:
    """How often the best of all attacks can be right, after one round of Gaussian noise.

    Parameters
    ----------
    prior_success : float
        How often a guess without the update is right, such as 0.1 for ten equally likely pictures.
    noise_multiplier : float
        Standard deviation divided by the distance of the update from zero.

    Hint: the best test between N(0, s²) and N(1, s²) at false alarm rate k detects with Phi(Phi^-1(k) + 1/s).
    `torch.distributions.Normal` has `cdf` and `icdf`. Use float64.
    """
    raise NotImplementedError
