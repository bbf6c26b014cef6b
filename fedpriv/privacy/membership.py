"""Membership: how well any attack can tell whether a unit took part."""

from __future__ import annotations

import math

from fedpriv.privacy.accounting import sampled_gaussian_losses
from fedpriv.privacy.checks import (
    check_delta,
    check_noise,
    check_not_negative,
    check_rounds,
    check_sampling_rate,
)


def membership_advantage(*, epsilon: float, delta: float = 0.0) -> float:
    """Largest true positive rate minus false positive rate of any membership test.

    ``(e^epsilon - 1 + 2 delta) / (e^epsilon + 1)`` [1]_, [2]_; below the ``e^epsilon - 1`` of Yeom et al.
    (2018). Attained by randomized response.

    Parameters
    ----------
    epsilon, delta : float
        The guarantee for the whole training, add/remove adjacency.

    Returns
    -------
    float
        Between 0 and 1; with even odds the test is right with probability (1 + advantage) / 2.

    Notes
    -----
    Assumed: nothing about the attack, which may know all other data. The membership of a *client* is no
    secret from a server that asked it; the number is of use for samples, or against the world outside.

    References
    ----------
    .. [1] P. Kairouz, S. Oh, P. Viswanath, "The composition theorem for differential privacy", ICML 2015
       (the region of error rates), https://arxiv.org/abs/1311.0776
    .. [2] T. Humphries et al., "Investigating membership inference attacks under data dependencies", CSF
       2023, https://arxiv.org/abs/2010.12112

    Examples
    --------
    >>> round(membership_advantage(epsilon=1.0), 3)
    0.462
    """
    check_not_negative("epsilon", epsilon, "it comes from fedpriv.privacy.epsilon or laplace_epsilon")
    if delta != 0:
        check_delta(delta)
    shrink = math.exp(-epsilon)  # e^epsilon overflows for large epsilon
    return (1 - shrink + 2 * delta * shrink) / (1 + shrink)


def gaussian_membership_advantage(
    *, noise_multiplier: float, rounds: int = 1, sampling_rate: float = 1.0
) -> float:
    """Largest true positive rate minus false positive rate on the Gaussian mechanism itself.

    ``2 Phi(sqrt(rounds) / (2 noise_multiplier)) - 1``, the total variation between N(0, 1) and the shifted
    one; below what (epsilon, delta) gives at any delta. With sampling, delta at epsilon = 0 of the privacy
    loss distribution [1]_.

    Parameters
    ----------
    noise_multiplier : float
        Noise standard deviation divided by the clip norm (add/remove; half of it for replacement).
    rounds : int, default 1
        Releases in which the unit takes part.
    sampling_rate : float, default 1.0
        Poisson sampling that the adversary does not see.

    References
    ----------
    .. [1] S. Mahloujifar, A. Sablayrolles, G. Cormode, S. Jha, "Optimal membership inference bounds for
       adaptive composition of sampled Gaussian mechanisms", 2022, https://arxiv.org/abs/2204.06106

    Examples
    --------
    >>> round(gaussian_membership_advantage(noise_multiplier=1.0), 3)
    0.383
    """
    check_noise(noise_multiplier)
    check_rounds(rounds)
    check_sampling_rate(sampling_rate)
    if sampling_rate == 1 or rounds == 1:
        return sampling_rate * math.erf(math.sqrt(rounds / 8) / noise_multiplier)
    return float(sampled_gaussian_losses(noise_multiplier, rounds, sampling_rate).get_delta_for_epsilon(0.0))
