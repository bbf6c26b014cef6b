"""From noise to epsilon and back: one page over the `dp-accounting` library.

What is accounted for: the Gaussian mechanism on a sum in which every unit's part is clipped, composed over
rounds, with or without Poisson sampling; and the Laplace mechanism. All numbers are for add/remove adjacency
(`Adjacency.ADD_REMOVE`). For replacement pass half the noise multiplier; with sampling that is not exact and
not offered. `fedpriv.privacy.account` reads the mechanism off a list of defenses.

The library is imported on first use, because it needs a second to load.
"""

from __future__ import annotations

import importlib
import math
import statistics
from typing import Any

from fedpriv.privacy.checks import (
    check_delta,
    check_epsilon,
    check_noise,
    check_positive,
    check_rounds,
    check_sampling_rate,
)

# Grids of privacy losses. Rounding is always upwards: a coarser grid is faster and gives more epsilon.
_FINE, _COARSE = 1e-4, 1e-3
_NOISE_TOLERANCE = 1e-3  # of `noise_for` with sampling: the noise is at most this fraction too large
_HARDLY_ANY = 1e-5  # noise multiplier below which the library's root finding need not converge
_LARGEST_EXPONENT = 700.0  # exp of a float ends at 709


def epsilon(*, noise_multiplier: float, delta: float, rounds: int = 1, sampling_rate: float = 1.0) -> float:
    """Privacy loss of the Gaussian mechanism after `rounds` releases.

    Without sampling it is exact: `rounds` releases are one with the noise divided by sqrt(rounds), and
    epsilon is the solution of ``Phi(a - b) - exp(epsilon) Phi(-a - b) = delta`` with
    ``a = 1 / (2 s), b = epsilon s``, s that noise multiplier [1]_ (Theorem 8). With sampling the privacy loss
    distribution is composed numerically [2]_, rounded so that the result is never too small.

    Parameters
    ----------
    noise_multiplier : float
        Noise standard deviation divided by the clip norm (L2 over all parameters jointly).
    delta : float
        Strictly between 0 and 1; well below 1 / (number of units).
    rounds : int, default 1
        Releases in which one unit takes part. They may be adaptive.
    sampling_rate : float, default 1.0
        Poisson sampling: each unit is in each release with this probability, independently, and the adversary
        does not see who is. A server that asks clients by name does see it: there the rate is 1.

    Returns
    -------
    float
        For the unit whose contribution is clipped (a client in `GaussianNoise`, a sample in DP-SGD), and
        add/remove adjacency. With hardly any noise it is large, and infinite beyond the range of floats;
        where the numerical accountant ends before that, the larger epsilon without sampling is returned.

    Raises
    ------
    ValueError
        If an argument is out of range, or `delta` is too small for the numerical accountant (below 1e-14).

    References
    ----------
    .. [1] B. Balle and Y.-X. Wang, "Improving the Gaussian mechanism for differential privacy: analytical
       calibration and optimal denoising", ICML 2018, https://arxiv.org/abs/1805.06530
    .. [2] V. Doroshenko, B. Ghazi, P. Kamath, R. Kumar, P. Manurangsi, "Connect the dots: tighter discrete
       approximations of privacy loss distributions", PoPETs 2022, https://arxiv.org/abs/2207.04380

    Examples
    --------
    >>> round(epsilon(noise_multiplier=1.0, delta=1e-5), 3)
    4.377
    >>> round(epsilon(noise_multiplier=1.0, delta=1e-5, rounds=100, sampling_rate=0.01), 2)
    0.72
    """
    check_noise(noise_multiplier)
    check_delta(delta)
    check_rounds(rounds)
    check_sampling_rate(sampling_rate)
    if sampling_rate == 1:
        return _unsampled(noise_multiplier / math.sqrt(rounds), delta)
    try:
        losses = sampled_gaussian_losses(noise_multiplier, rounds, sampling_rate)
        found = float(losses.get_epsilon_for_delta(delta))
    except OverflowError:  # losses beyond all exponents; sampling never costs
        return _unsampled(noise_multiplier / math.sqrt(rounds), delta)
    if math.isinf(found):
        raise ValueError(
            f"delta must be at least about 1e-14 where clients are sampled, got {delta!r}; below that the "
            "numerical accountant knows nothing: use a larger delta or sampling_rate=1"
        )
    return found


def noise_for(*, epsilon: float, delta: float, rounds: int = 1, sampling_rate: float = 1.0) -> float:
    """Return the smallest noise multiplier with which the Gaussian mechanism keeps to a budget.

    Parameters
    ----------
    epsilon, delta : float
        The budget for all rounds together.
    rounds : int, default 1
        Releases in which one unit takes part.
    sampling_rate : float, default 1.0
        As in `fedpriv.privacy.epsilon`.

    Returns
    -------
    float
        Exact without sampling, at most 0.1 % too large with it.

    Raises
    ------
    ValueError
        If an argument is out of range.

    Examples
    --------
    >>> round(noise_for(epsilon=1.0, delta=1e-5, rounds=10), 3)
    11.797
    """
    check_epsilon(epsilon)
    check_delta(delta)
    check_rounds(rounds)
    check_sampling_rate(sampling_rate)
    enough = float(_library().get_sigma_gaussian(epsilon, delta)) * math.sqrt(rounds)
    if sampling_rate == 1:
        return enough

    def too_little(noise: float) -> bool:
        try:
            losses = sampled_gaussian_losses(noise, rounds, sampling_rate, grid=_COARSE)
        except OverflowError:  # losses beyond all exponents: nobody can say that it is enough
            return True
        return float(losses.get_epsilon_for_delta(delta)) > epsilon

    scarce = enough / 2  # sampling never costs, so `enough` is enough; halve until it is not
    while not too_little(scarce):
        enough, scarce = scarce, scarce / 2
    while enough / scarce > 1 + _NOISE_TOLERANCE:
        middle = math.sqrt(enough * scarce)
        enough, scarce = (enough, middle) if too_little(middle) else (middle, scarce)
    return enough


def laplace_epsilon(*, noise_multiplier: float, rounds: int = 1, delta: float = 0.0) -> float:
    """Privacy loss of the Laplace mechanism: ``rounds / noise_multiplier``, or less if a `delta` is allowed.

    Parameters
    ----------
    noise_multiplier : float
        Scale b of the noise (density ``exp(-|x| / b) / 2 b`` on every coordinate) divided by the clip norm in
        **L1**. With an L2 clip norm C and p coordinates the L1 norm may be sqrt(p) C.
    rounds : int, default 1
        Releases in which one unit takes part.
    delta : float, default 0.0
        With 0, pure differential privacy. Otherwise the optimal composition of any pure mechanisms [2]_,
        which pays from several rounds on.

    Returns
    -------
    float
        For add/remove adjacency.

    References
    ----------
    .. [1] C. Dwork, F. McSherry, K. Nissim, A. Smith, "Calibrating noise to sensitivity in private data
       analysis", TCC 2006
    .. [2] P. Kairouz, S. Oh, P. Viswanath, "The composition theorem for differential privacy", ICML 2015,
       Theorem 3.3, https://arxiv.org/abs/1311.0776

    Examples
    --------
    >>> laplace_epsilon(noise_multiplier=2.0, rounds=4)
    2.0
    """
    check_noise(noise_multiplier)
    check_rounds(rounds)
    pure = rounds / noise_multiplier
    if delta == 0:
        return pure
    check_delta(delta)
    # Every loss is then 1 / noise_multiplier but with probability exp(-700): a delta saves -log(1 - delta).
    if 1 / noise_multiplier > _LARGEST_EXPONENT:
        return pure
    _library()
    pld = importlib.import_module("dp_accounting.pld")
    once = pld.privacy_loss_distribution.from_privacy_parameters(
        pld.common.DifferentialPrivacyParameters(1 / noise_multiplier, 0.0),
        value_discretization_interval=_FINE * max(1.0, 1 / noise_multiplier),
    )
    return min(pure, float(once.self_compose(rounds).get_epsilon_for_delta(delta)))


def renyi_epsilon(
    *, noise_multiplier: float, order: float, rounds: int = 1, sampling_rate: float = 1.0
) -> float:
    """Rényi privacy loss of the Gaussian mechanism: ``rounds * order / (2 noise_multiplier²)`` [1]_.

    Parameters
    ----------
    noise_multiplier : float
        Noise standard deviation divided by the clip norm; half of it for replacement (without sampling only).
    order : float
        Above 1.
    rounds : int, default 1
        Releases in which one unit takes part.
    sampling_rate : float, default 1.0
        Poisson sampling [2]_, for add/remove adjacency.

    References
    ----------
    .. [1] I. Mironov, "Rényi differential privacy", CSF 2017, Corollary 3, https://arxiv.org/abs/1702.07476
    .. [2] I. Mironov, K. Talwar, L. Zhang, "Rényi differential privacy of the sampled Gaussian mechanism",
       2019, https://arxiv.org/abs/1908.10530

    Examples
    --------
    >>> renyi_epsilon(noise_multiplier=2.0, order=2.0, rounds=3)
    0.75
    """
    check_noise(noise_multiplier)
    check_rounds(rounds)
    check_sampling_rate(sampling_rate)
    check_positive("order - 1", order - 1, "Rényi orders lie above 1")
    if sampling_rate == 1:
        return rounds * order / (2 * noise_multiplier**2)
    dp = _library()
    event = dp.PoissonSampledDpEvent(sampling_rate, dp.GaussianDpEvent(noise_multiplier))
    return float(dp.rdp.RdpAccountant(orders=[order]).compose(event, rounds).rdp[0])


def sampled_gaussian_losses(
    noise_multiplier: float, rounds: int, sampling_rate: float, *, grid: float = _FINE
) -> Any:
    """The library's privacy loss distribution of the Poisson-sampled Gaussian mechanism, rounded upwards."""
    _library()
    module = importlib.import_module("dp_accounting.pld.privacy_loss_distribution")
    once = module.from_gaussian_mechanism(
        noise_multiplier,
        sampling_prob=sampling_rate,
        value_discretization_interval=grid * max(1.0, noise_multiplier**-2),  # losses grow like this
    )
    return once.self_compose(rounds)


def _unsampled(noise: float, delta: float) -> float:
    """One release of the Gaussian mechanism, all of it at once."""
    if noise >= _HARDLY_ANY:
        return float(_library().get_epsilon_gaussian(noise, delta))
    # Without the second term of the equation, which lowers epsilon by about 1, of at least 4e9.
    return (0.5 / noise - statistics.NormalDist().inv_cdf(delta)) / noise


def _library() -> Any:
    try:
        return importlib.import_module("dp_accounting")
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "privacy accounting needs the package dp-accounting; `pip install dp-accounting` brings it"
        ) from error
