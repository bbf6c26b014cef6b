"""Epsilon against closed forms and integrals that are computed here, without the library."""

from __future__ import annotations

import math
import sys

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.optimize import brentq
from scipy.special import ndtr
from scipy.stats import norm

from fedpriv.privacy import epsilon, laplace_epsilon, noise_for, renyi_epsilon


def gaussian_delta(eps, noise):
    """Balle and Wang 2018, Theorem 8, in the plain form."""
    return ndtr(0.5 / noise - eps * noise) - math.exp(eps) * ndtr(-0.5 / noise - eps * noise)


def gaussian_epsilon(noise, delta):
    return brentq(lambda eps: gaussian_delta(eps, noise) - delta, 0, 200, xtol=1e-12)


@pytest.mark.parametrize("noise", [0.4, 0.8, 1.0, 2.0, 10.0])
@pytest.mark.parametrize("delta", [1e-3, 1e-5, 1e-8])
def test_one_gaussian_release_is_the_closed_form(noise, delta):
    assert epsilon(noise_multiplier=noise, delta=delta) == pytest.approx(
        gaussian_epsilon(noise, delta), abs=1e-6
    )


@pytest.mark.parametrize(("noise", "rounds"), [(1.0, 4), (3.0, 10), (20.0, 1000)])
def test_composition_against_the_integral_of_the_composed_privacy_loss(noise, rounds):
    """The loss of T releases is a sum of T normal losses: N(T m, 2 T m) with m = 1 / (2 noise²)."""
    mean = rounds / (2 * noise**2)
    eps, std = epsilon(noise_multiplier=noise, delta=1e-5, rounds=rounds), math.sqrt(2 * mean)
    delta = quad(
        lambda loss: (1 - math.exp(eps - loss)) * norm.pdf(loss, mean, std),
        eps,
        mean + 40 * std,
        epsabs=1e-12,
    )[0]
    assert delta == pytest.approx(1e-5, rel=1e-3)


def one_sampled_round(noise, rate, delta):
    """Both directions of add/remove by integration of ``max(0, p - e^eps q)``."""

    def delta_at(eps):
        x = np.linspace(-12 * noise - 2, 12 * noise + 3, 100_001)
        with_unit = (1 - rate) * norm.pdf(x, 0, noise) + rate * norm.pdf(x, 1, noise)
        without = norm.pdf(x, 0, noise)
        pairs = ((with_unit, without), (without, with_unit))
        return max(np.trapezoid(np.maximum(0, p - math.exp(eps) * q), x) for p, q in pairs)

    return brentq(lambda eps: delta_at(eps) - delta, 0, 60, xtol=1e-9)


@pytest.mark.parametrize(("noise", "rate"), [(0.6, 0.2), (1.0, 0.9), (3.0, 0.01)])
def test_one_sampled_round_by_numerical_integration(noise, rate):
    got = epsilon(noise_multiplier=noise, delta=1e-5, sampling_rate=rate)
    assert got == pytest.approx(one_sampled_round(noise, rate, 1e-5), abs=1e-3)


def test_sampled_rounds_against_simulated_losses():
    """delta(eps) = E max(0, 1 - e^(eps - loss)) over draws of the composed loss of the worse direction."""
    noise, rate, rounds, delta = 1.0, 0.3, 5, 1e-2
    eps = epsilon(noise_multiplier=noise, delta=delta, rounds=rounds, sampling_rate=rate)
    draws = np.random.default_rng(0)
    centers = draws.random((200_000, rounds)) < rate
    x = centers + noise * draws.standard_normal(centers.shape)
    loss = np.log1p(rate * np.expm1((2 * x - 1) / (2 * noise**2))).sum(axis=1)
    gains = np.maximum(0, -np.expm1(eps - loss))
    assert abs(gains.mean() - delta) < 3 * gains.std() / math.sqrt(len(gains)) + 1e-5


def test_the_exact_accountant_is_never_above_the_renyi_one():
    """Mironov 2017, Proposition 3: eps = rdp(order) + log(1 / delta) / (order - 1) for every order."""
    for noise, rounds, rate in ((1.0, 1, 1.0), (2.0, 50, 1.0), (1.0, 20, 0.1)):
        exact = epsilon(noise_multiplier=noise, delta=1e-5, rounds=rounds, sampling_rate=rate)
        renyi = min(
            renyi_epsilon(noise_multiplier=noise, order=order, rounds=rounds, sampling_rate=rate)
            + math.log(1e5) / (order - 1)
            for order in (2.0, 3.0, 5.0, 8.0, 16.0, 32.0)
        )
        assert exact <= renyi <= 3 * exact


def test_renyi_loss_by_its_definition():
    """(1 / (a - 1)) log E_Q (P / Q)^a, integrated; sampled at order 3."""
    rate, noise, order = 0.25, 1.5, 3.0

    def power(x):
        ratio = 1 - rate + rate * math.exp((2 * x - 1) / (2 * noise**2))
        return ratio**order * norm.pdf(x, 0, noise)

    expected = math.log(quad(power, -40, 40)[0]) / (order - 1)
    got = renyi_epsilon(noise_multiplier=noise, order=order, sampling_rate=rate, rounds=2)
    assert got == pytest.approx(2 * expected, rel=1e-6)
    assert renyi_epsilon(noise_multiplier=2.0, order=1.5) == pytest.approx(1.5 / 8)


def test_more_noise_less_epsilon_more_rounds_or_sampling_more():
    noises = [epsilon(noise_multiplier=s, delta=1e-5) for s in (0.3, 0.5, 1.0, 2.0, 5.0)]
    assert noises == sorted(noises, reverse=True)
    rounds = [epsilon(noise_multiplier=2.0, delta=1e-5, rounds=t) for t in (1, 2, 10, 100)]
    assert rounds == sorted(rounds)
    rates = [epsilon(noise_multiplier=1.0, delta=1e-5, rounds=5, sampling_rate=q) for q in (0.01, 0.2, 1)]
    assert rates == sorted(rates)
    deltas = [epsilon(noise_multiplier=1.0, delta=d) for d in (1e-10, 1e-5, 1e-2, 0.5)]
    assert deltas == sorted(deltas, reverse=True)
    assert deltas[-1] == 0.0  # delta above the total variation: (0, delta)-private


@pytest.mark.parametrize("budget", [0.1, 1.0, 8.0, 50.0])
def test_noise_for_is_the_inverse(budget):
    noise = noise_for(epsilon=budget, delta=1e-5, rounds=7)
    assert epsilon(noise_multiplier=noise, delta=1e-5, rounds=7) == pytest.approx(budget, rel=1e-6)


def test_noise_for_with_sampling_keeps_to_the_budget_and_hardly_wastes():
    noise = noise_for(epsilon=2.0, delta=1e-5, rounds=20, sampling_rate=0.05)
    settings = {"delta": 1e-5, "rounds": 20, "sampling_rate": 0.05}
    assert epsilon(noise_multiplier=noise, **settings) <= 2.0
    assert epsilon(noise_multiplier=0.998 * noise, **settings) > 2.0


def test_little_noise_is_accounted_for_in_bounded_time_and_never_too_low():
    """With probability q² = 1/4 both rounds are plain: eps(delta) >= eps_plain(4 delta) - log 4."""
    got = epsilon(noise_multiplier=0.03, delta=1e-5, rounds=2, sampling_rate=0.5)
    plain = [epsilon(noise_multiplier=0.03, delta=delta, rounds=2) for delta in (4e-5, 1e-5)]
    assert plain[0] - math.log(4) <= got <= plain[1]


def test_laplace_is_pure_and_cheaper_with_a_delta_over_many_rounds():
    assert laplace_epsilon(noise_multiplier=4.0) == 0.25
    assert laplace_epsilon(noise_multiplier=10.0, rounds=50) == 5.0
    relaxed = laplace_epsilon(noise_multiplier=10.0, rounds=50, delta=1e-5)
    # advanced composition (Dwork, Rothblum, Vadhan 2010) is a valid, looser bound
    advanced = 0.1 * math.sqrt(2 * 50 * math.log(1e5)) + 50 * 0.1 * math.expm1(0.1)
    assert relaxed <= min(5.0, advanced)
    # randomized response, the worst pure mechanism: the exact composition is a binomial sum
    p = math.exp(0.1) / (1 + math.exp(0.1))
    delta = sum(
        math.comb(50, k)
        * max(0.0, p**k * (1 - p) ** (50 - k) - math.exp(relaxed) * p ** (50 - k) * (1 - p) ** k)
        for k in range(51)
    )
    assert delta == pytest.approx(1e-5, rel=0.05)
    assert delta <= 1e-5 * (1 + 1e-9)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: epsilon(noise_multiplier=0.0, delta=1e-5), "noise_multiplier must be a positive finite"),
        (lambda: epsilon(noise_multiplier=-1.0, delta=1e-5), "noise_multiplier must be a positive finite"),
        (
            lambda: epsilon(noise_multiplier=math.nan, delta=1e-5),
            "noise_multiplier must be a positive finite",
        ),
        (lambda: epsilon(noise_multiplier=True, delta=1e-5), "noise_multiplier must be a positive finite"),
        (lambda: epsilon(noise_multiplier=1.0, delta=0.0), "delta must be strictly between 0 and 1"),
        (lambda: epsilon(noise_multiplier=1.0, delta=1.0), "delta must be strictly between 0 and 1"),
        (lambda: epsilon(noise_multiplier=1.0, delta=-1e-5), "delta must be strictly between 0 and 1"),
        (lambda: epsilon(noise_multiplier=1.0, delta=math.nan), "delta must be strictly between 0 and 1"),
        (lambda: epsilon(noise_multiplier=1.0, delta=1e-5, rounds=0), "rounds must be a whole number"),
        (lambda: epsilon(noise_multiplier=1.0, delta=1e-5, rounds=True), "rounds must be a whole number"),
        (
            lambda: epsilon(noise_multiplier=1.0, delta=1e-5, sampling_rate=0.0),
            "sampling_rate must be above 0",
        ),
        (
            lambda: epsilon(noise_multiplier=1.0, delta=1e-5, sampling_rate=1.1),
            "sampling_rate must be above 0",
        ),
        (
            lambda: epsilon(noise_multiplier=1.0, delta=1e-30, sampling_rate=0.5),
            "delta must be at least about",
        ),
        (lambda: noise_for(epsilon=0.0, delta=1e-5), "epsilon must be a positive finite"),
        (lambda: noise_for(epsilon=-1.0, delta=1e-5), "epsilon must be a positive finite"),
        (lambda: noise_for(epsilon=math.inf, delta=1e-5), "epsilon must be a positive finite"),
        (lambda: noise_for(epsilon=1.0, delta=2.0), "delta must be strictly between 0 and 1"),
        (lambda: laplace_epsilon(noise_multiplier=0.0), "noise_multiplier must be a positive finite"),
        (lambda: laplace_epsilon(noise_multiplier=1.0, delta=1.5), "delta must be strictly between 0 and 1"),
        (lambda: renyi_epsilon(noise_multiplier=1.0, order=1.0), "order - 1 must be a positive finite"),
    ],
)
def test_bad_input_is_refused_in_one_sentence(call, message):
    with pytest.raises(ValueError, match=message) as error:
        call()
    assert "\n" not in str(error.value)


def test_without_the_library_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "dp_accounting", None)
    with pytest.raises(ModuleNotFoundError, match="pip install dp-accounting"):
        epsilon(noise_multiplier=1.0, delta=1e-5)


@pytest.mark.parametrize("multiplier", [1e-300, 1e-9, 2e-5, 2e-4, 1e-3])
@pytest.mark.parametrize("rounds", [1, 100])
def test_hardly_any_noise_gives_a_large_epsilon_and_no_overflow(multiplier, rounds):
    pure = laplace_epsilon(noise_multiplier=multiplier, rounds=rounds)
    assert laplace_epsilon(noise_multiplier=multiplier, rounds=rounds, delta=1e-5) == pytest.approx(pure)
    least = rounds / multiplier / multiplier / 2  # half the squared distance of the means
    for rate in (1.0, 0.5):
        found = epsilon(noise_multiplier=multiplier, delta=1e-5, rounds=rounds, sampling_rate=rate)
        assert found >= 0.4 * rate * least


def test_the_formula_for_hardly_any_noise_meets_the_exact_one():
    """Both sides of the switch at 1e-5: the formula is above the solution of the equation, by one."""
    exact, formula = (epsilon(noise_multiplier=s, delta=1e-5) for s in (1.0000001e-5, 0.9999999e-5))
    assert exact < formula
    assert formula == pytest.approx(exact, rel=1e-6)
