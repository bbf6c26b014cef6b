"""Checks of the exercise `noise`."""

from __future__ import annotations

import torch

import fedpriv


def uniform(generator, low, high):
    return low + (high - low) * float(torch.rand(1, generator=generator))


def test_sensitivity(answer, generator):
    clip, people = uniform(generator, 0.5, 3), 7
    found = answer.sensitivity(clip, people, replace=False)
    assert abs(found - clip) > 1e-9, "this is the sensitivity of the sum: the mean moves by a 1/clients of it"
    assert abs(found - 2 * clip / people) > 1e-9, "twice too much: from a vector to zero is one clip norm"
    assert abs(found - clip / people) < 1e-9, (
        f"expected {clip / people:.4g} for one client that joins, got {found:.4g}"
    )
    other = answer.sensitivity(clip, people, replace=True)
    assert abs(other - clip / people) > 1e-9, (
        "a replaced client can move from one side to the opposite: two clip norms"
    )
    assert abs(other - 2 * clip / people) < 1e-9, (
        f"expected {2 * clip / people:.4g} for a replaced client, got {other:.4g}"
    )


def test_multiplier(answer, generator):
    epsilon, rounds = uniform(generator, 0.5, 4), int(torch.randint(2, 30, (1,), generator=generator))
    found = answer.multiplier(epsilon, 1e-5, rounds)
    right = fedpriv.privacy.noise_for(epsilon=epsilon, delta=1e-5, rounds=rounds)
    single = fedpriv.privacy.noise_for(epsilon=epsilon, delta=1e-5, rounds=1)
    textbook = (2 * torch.tensor(1.25e5).log()).sqrt().item() / epsilon
    assert abs(found / single - 1) > 0.01, "this is the noise for a single round: every round costs"
    assert abs(found / textbook - 1) > 0.01, (
        "sqrt(2 ln(1.25/delta))/epsilon holds for one round and epsilon below 1 only"
    )
    spent = fedpriv.privacy.epsilon(noise_multiplier=found, delta=1e-5, rounds=rounds)
    assert spent <= epsilon * 1.0001, (
        f"{rounds} rounds with {found:.4g} cost epsilon {spent:.4g}, above {epsilon:.4g}"
    )
    assert found <= right * 1.002, f"{found:.4g} is more noise than needed: {right:.4g} is enough"


def test_best_guess(answer, generator):
    prior, noise = uniform(generator, 0.05, 0.4), uniform(generator, 0.5, 3)
    found = answer.best_guess(prior, noise)
    bound = fedpriv.privacy.rero_bound(prior_success=prior, noise_multiplier=noise)
    assert found > prior, (
        f"{found:.3g} is below the guess without the update ({prior:.3g}): plus 1/s, not minus"
    )
    grown = float(torch.special.ndtr(torch.special.ndtri(torch.tensor(prior)) + noise))
    assert abs(found - grown) > 1e-3 or abs(noise - 1) < 1e-3, (
        "more noise must lower success: divide by s, not times s"
    )
    assert abs(found - bound) < 1e-6, f"expected {bound:.4g}, got {found:.4g}"
