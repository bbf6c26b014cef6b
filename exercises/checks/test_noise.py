"""Checks of the exercise `noise`."""

from __future__ import annotations

import torch
from expecting import none_of, number, show

import fedpriv


def uniform(generator, low, high):
    return low + (high - low) * float(torch.rand(1, generator=generator))


def test_sensitivity(answer, generator):
    clip, people = uniform(generator, 0.5, 3), 7
    found = number(answer.sensitivity(clip, people, replace=False))
    right = clip / people
    mistakes = [
        (clip, "this is the sensitivity of the sum: the mean moves by a 1/clients of it"),
        (2 * clip, "this is the sensitivity of the sum: the mean moves by a 1/clients of it"),
        (2 * right, "twice too much: from a vector to zero is one clip norm"),
    ]
    none_of(found, mistakes, right)
    assert abs(found - right) < 1e-6, (
        f"expected {show(right)} for one client that joins, got {show(found)}: clip norm / clients"
    )
    other = number(answer.sensitivity(clip, people, replace=True))
    mistakes = [
        (right, "a replaced client can move from one side to the opposite: two clip norms"),
        (2**0.5 * right, "the two vectors may be opposite, not only at right angles: two clip norms"),
    ]
    none_of(other, mistakes, 2 * right)
    assert abs(other - 2 * right) < 1e-6, (
        f"expected {show(2 * right)} for a replaced client, got {show(other)}: 2 clip norms / clients"
    )


def test_multiplier(answer, generator):
    epsilon, rounds = uniform(generator, 0.5, 4), int(torch.randint(2, 30, (1,), generator=generator))
    found = number(answer.multiplier(epsilon, 1e-5, rounds))
    assert found > 0, f"expected a positive multiplier, got {show(found)}"
    right = fedpriv.privacy.noise_for(epsilon=epsilon, delta=1e-5, rounds=rounds)
    single = fedpriv.privacy.noise_for(epsilon=epsilon, delta=1e-5, rounds=1)
    textbook = (2 * torch.tensor(1.25e5).log()).sqrt().item() / epsilon
    mistakes = [
        (single, "this is the noise for a single round: every round costs"),
        (rounds * single, "too much: noise grows with the root of the rounds, not with their number"),
        *(
            (
                textbook * k,
                "sqrt(2 ln(1.25/delta))/epsilon holds for one round and epsilon below 1 only: bisect",
            )
            for k in (1, rounds**0.5, rounds)
        ),
    ]
    for wrong, sentence in mistakes:
        assert abs(found / right - 1) < 0.002 or abs(found / wrong - 1) > 0.01, sentence
    spent = fedpriv.privacy.epsilon(noise_multiplier=found, delta=1e-5, rounds=rounds)
    assert spent <= epsilon * 1.001, (
        f"{rounds} rounds with {show(found)} cost epsilon {show(spent)}, above {show(epsilon)}: more noise"
    )
    assert found <= right * 1.002, (
        f"{show(found)} is more noise than needed: {show(right)} is enough; the SMALLEST that "
        "costs at most epsilon"
    )


def test_best_guess(answer, generator):
    prior, noise = uniform(generator, 0.05, 0.4), uniform(generator, 0.5, 3)
    found = number(answer.best_guess(prior, noise))
    bound = fedpriv.privacy.rero_bound(prior_success=prior, noise_multiplier=noise)
    phi, inverse = torch.special.ndtr, float(torch.special.ndtri(torch.tensor(prior, dtype=torch.float64)))
    mistakes = [
        (phi(torch.tensor(inverse + noise)), "more noise must lower success: divide by s, not times s"),
        (phi(torch.tensor(inverse - 1 / noise)), "below the guess without the update: plus 1/s, not minus"),
        (phi(torch.tensor(prior + 1 / noise)), "Phi^-1 first: Phi(Phi^-1(k) + 1/s)"),
        (phi(torch.tensor(inverse + 1 / noise**2)), "1/s, not 1/s²"),
        (phi(torch.tensor((inverse + 1) / noise)), "only the 1 is divided by s"),
        (inverse + 1 / noise, "Phi of it is missing: Phi(Phi^-1(k) + 1/s)"),
        (prior, "this is the guess without the update: noise does not take everything"),
        (1 - bound, "this is how often it is wrong"),
    ]
    none_of(found, mistakes, bound)
    assert abs(found - bound) < 1e-6, f"expected {show(bound)}, got {show(found)}: Phi(Phi^-1(k) + 1/s)"
