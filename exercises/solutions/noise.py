"""Lesson 8: noise for a budget, and what it buys: the answer."""

from __future__ import annotations

import torch

import fedpriv


def sensitivity(clip_norm: float, num_clients: int, *, replace: bool) -> float:
    """Two opposite vectors are 2 C apart."""
    return (2 if replace else 1) * clip_norm / num_clients


def multiplier(epsilon: float, delta: float, rounds: int) -> float:
    """Bisection."""
    low, high = 0.1, 1000.0
    while high / low > 1.0005:
        middle = (low * high) ** 0.5
        cost = fedpriv.privacy.epsilon(noise_multiplier=middle, delta=delta, rounds=rounds)
        low, high = (middle, high) if cost > epsilon else (low, middle)
    return high


def best_guess(prior_success: float, noise_multiplier: float) -> float:
    """The Neyman-Pearson test."""
    normal = torch.distributions.Normal(torch.tensor(0.0, dtype=torch.float64), 1.0)
    quantile = normal.icdf(torch.tensor(prior_success, dtype=torch.float64))
    return float(normal.cdf(quantile + 1 / noise_multiplier))
