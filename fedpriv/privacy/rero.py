"""Reconstruction robustness (ReRo): how often any attack can succeed, given how often a guess does.

The game [1]_: the adversary knows everything but one unit z, drawn from a prior it knows, and sees the
release. It succeeds if its answer is within some distance of z in some metric. `prior_success` (kappa) is the
probability of the best answer *without* the release; for k equally likely candidates 1 / k. The bounds hold
for every attack, biased or not, with unlimited computing time, and for every metric: only kappa depends on
it. They say nothing about a prior better than the one that kappa was computed from.

All rest on one step. Let P be the law of the release with z, Q that without z. Under Q nobody beats kappa;
an event that is rare under Q is not much more frequent under P.

References
----------
.. [1] B. Balle, G. Cherubin, J. Hayes, "Reconstructing training data with informed adversaries", IEEE S&P
   2022, https://arxiv.org/abs/2201.04845
"""

from __future__ import annotations

import math
from typing import Any

from fedpriv.privacy.accounting import sampled_gaussian_losses
from fedpriv.privacy.checks import (
    check_delta,
    check_noise,
    check_not_negative,
    check_positive,
    check_prior,
    check_rounds,
    check_sampling_rate,
)
from fedpriv.privacy.normal import cdf, quantile

_RESOLUTION = 1e-6  # of the search for the best slope; the bound is flat around it


def rero_bound(
    *, prior_success: float, noise_multiplier: float, rounds: int = 1, sampling_rate: float = 1.0
) -> float:
    """Largest success probability of any attack on the Gaussian mechanism.

    ``Phi(Phi^-1(kappa) + sqrt(rounds) / noise_multiplier)``: the power of the best test of level kappa
    between N(0, s²) and N(1, s²) (Neyman and Pearson) [2]_, [3]_.

    Parameters
    ----------
    prior_success : float
        kappa, the success of the best guess without the update.
    noise_multiplier : float
        Noise standard deviation divided by the clip norm. The reference Q is the release *without* the unit
        (add/remove), so the multiplier is not halved for an adversary who compares candidates.
    rounds : int, default 1
        Releases in which the unit takes part.
    sampling_rate : float, default 1.0
        Poisson sampling that the adversary does not see. One round has a closed form,
        ``(1 - q) kappa + q Phi(Phi^-1(kappa) + 1 / s)``; several are computed from the privacy loss
        distribution, rounded upwards.

    Returns
    -------
    float
        At least `prior_success`, at most 1. Attained by two candidates whose clipped updates are opposite;
        more candidates stay below it.

    Raises
    ------
    ValueError
        If an argument is out of range.

    References
    ----------
    .. [2] J. Hayes, S. Mahloujifar, B. Balle, "Bounding training data reconstruction in DP-SGD", NeurIPS
       2023, https://arxiv.org/abs/2302.07225
    .. [3] G. Kaissis, J. Hayes, A. Ziller, D. Rueckert, "Bounding data reconstruction attacks with the
       hypothesis testing interpretation of differential privacy", 2023, https://arxiv.org/abs/2307.03928

    Examples
    --------
    >>> round(rero_bound(prior_success=0.1, noise_multiplier=1.0), 3)
    0.389
    >>> round(rero_bound(prior_success=0.1, noise_multiplier=1.0, rounds=9), 3)
    0.957
    """
    check_prior(prior_success)
    check_noise(noise_multiplier)
    check_rounds(rounds)
    check_sampling_rate(sampling_rate)
    if sampling_rate == 1 or rounds == 1:
        power = cdf(quantile(prior_success) + math.sqrt(rounds) / noise_multiplier)
        return (1 - sampling_rate) * prior_success + sampling_rate * power
    losses = sampled_gaussian_losses(noise_multiplier, rounds, sampling_rate)
    # The library keeps both directions and answers with the worse; ours is "with the unit" against "without".
    return _best_power(getattr(losses, "_pmf_remove", losses), prior_success)


def rero_bound_dp(*, prior_success: float, epsilon: float, delta: float = 0.0) -> float:
    """Largest success probability of any attack on any (epsilon, delta)-private mechanism.

    ``min(e^epsilon kappa + delta, 1 - e^-epsilon (1 - delta - kappa))``. The first term for delta = 0 is
    the bound of Balle et al. 2022; the second is the same inequality for the failure. Both can be attained.

    Parameters
    ----------
    prior_success : float
        kappa.
    epsilon, delta : float
        The guarantee for the whole training, with add/remove adjacency (or replacement: it is stronger).

    Examples
    --------
    >>> round(rero_bound_dp(prior_success=0.1, epsilon=1.0), 3)
    0.272
    """
    check_prior(prior_success)
    check_not_negative("epsilon", epsilon, "it comes from fedpriv.privacy.epsilon or laplace_epsilon")
    if delta != 0:
        check_delta(delta)
    # e^-epsilon first: e^epsilon overflows for large epsilon.
    shrink = math.exp(-epsilon)
    upper = 1.0 if shrink <= prior_success else prior_success / shrink + delta
    return min(1.0, upper, 1 - shrink * max(0.0, 1 - delta - prior_success))


def rero_bound_local_dp(*, prior_success: float, epsilon: float) -> float:
    """Largest success probability on a pure epsilon-private answer where *any* two data are neighbours.

    ``kappa e^epsilon / (1 - kappa + kappa e^epsilon)``: the release cannot multiply the odds by more than
    e^epsilon (Bayes). Below `rero_bound_dp`, because replacement is the stronger notion; randomized response
    attains it for every number of candidates.

    Parameters
    ----------
    prior_success : float
        kappa.
    epsilon : float
        Pure (delta = 0), replacement adjacency: each client randomizes its own answer.

    Examples
    --------
    >>> round(rero_bound_local_dp(prior_success=0.1, epsilon=1.0), 3)
    0.232
    """
    check_prior(prior_success)
    check_not_negative("epsilon", epsilon, "it comes from laplace_epsilon with half the noise multiplier")
    return prior_success / (prior_success + (1 - prior_success) * math.exp(-epsilon))


def rero_bound_rdp(*, prior_success: float, rdp_epsilon: float, order: float) -> float:
    """Largest success probability on an (order, rdp_epsilon)-Rényi private mechanism.

    ``(kappa e^rdp_epsilon)^((order - 1) / order)``, from Hölder's inequality; in Balle et al. 2022 beside
    the pure bound. Any order gives a bound, the best one is usually between 1.5 and 20. For Gaussian noise
    `rero_bound` is never worse.

    Parameters
    ----------
    prior_success : float
        kappa.
    rdp_epsilon : float
        Rényi privacy loss for add/remove adjacency, from `renyi_epsilon`.
    order : float
        The order it belongs to, above 1.

    Examples
    --------
    >>> round(rero_bound_rdp(prior_success=0.1, rdp_epsilon=1.0, order=2.0), 3)
    0.521
    """
    check_prior(prior_success)
    check_not_negative("rdp_epsilon", rdp_epsilon, "it comes from fedpriv.privacy.renyi_epsilon")
    check_positive("order - 1", order - 1, "Rényi orders lie above 1")
    exponent = (math.log(prior_success) + rdp_epsilon) * (order - 1) / order
    return math.exp(min(0.0, exponent))


def _best_power(losses: Any, level: float) -> float:
    """Sup of P(E) with Q(E) <= level: the lower envelope of the lines ``delta(e) + exp(e) level``.

    Every e gives a valid bound, so stopping early is safe. The bound is convex in exp(e), hence unimodal in
    e, and golden section search finds its lowest point.
    """

    def line(e: float) -> float:
        return float(losses.get_delta_for_epsilon(e)) + math.exp(e) * level

    golden = (math.sqrt(5) - 1) / 2
    low, high = -40.0, -math.log(level)  # where exp(e) level = 1 already
    left, right = high - golden * (high - low), low + golden * (high - low)
    at_left, at_right = line(left), line(right)
    while high - low > _RESOLUTION:
        if at_left <= at_right:
            high, right, at_right = right, left, at_left
            left = high - golden * (high - low)
            at_left = line(left)
        else:
            low, left, at_left = left, right, at_right
            right = low + golden * (high - low)
            at_right = line(right)
    return min(1.0, at_left, at_right)
