"""Checks of the exercise `averaging`."""

from __future__ import annotations

import pytest
import torch
from expecting import close, none_of, show, update

ATOL = 1e-5


def draw(generator):
    return {"w": torch.randn(3, 2, generator=generator), "b": torch.randn(2, generator=generator)}


def times(factor, one):
    return {k: factor * v for k, v in one.items()}


def copied(one):
    return {k: v.clone() for k, v in one.items()}


def mean_of(updates, weights):
    return {
        k: sum(w * u[k] for w, u in zip(weights, updates, strict=True)) / sum(weights) for k in ("w", "b")
    }


@pytest.fixture
def people(generator):
    sizes = torch.randperm(20, generator=generator)[:3] + 2
    return [draw(generator) for _ in range(3)], sizes.tolist()


def untouched(given, before):
    assert all(torch.equal(given[k], before[k]) for k in before), (
        "the update that came in was changed: make new tensors"
    )


def test_weighted_mean(answer, people):
    updates, sizes = people
    given = [copied(one) for one in updates]
    result = answer.weighted_mean(given, list(sizes))
    right = mean_of(updates, sizes)
    found = update(result, right)
    mistakes = [
        (
            mean_of(updates, [1, 1, 1]),
            "everybody has the same weight: whoever has more samples counts more",
        ),
        (
            times(3, mean_of(updates, [1, 1, 1])),
            "this is the plain sum: weigh by the number of samples, and divide",
        ),
        (times(sum(sizes), right), "this is the sum over samples: divide by the number of all samples"),
        (times(sum(sizes) / 3, right), "divide by the number of all samples, not of clients"),
        (times(1 / 3, right), "the weights add up to one already: do not divide by the number of clients"),
        (
            mean_of(updates, [1 / n for n in sizes]),
            "upside down: whoever has more samples counts more",
        ),
    ]
    none_of(found, mistakes, right, ATOL)
    shares = show([n / sum(sizes) for n in sizes])
    assert close(found, right, ATOL), (
        f"not the mean weighted by the number of samples: the weights are {shares}"
    )
    for one, kept in zip(given, updates, strict=True):
        untouched(one, kept)


def test_one_left(answer, people):
    updates, sizes = people
    before, after = mean_of(updates, sizes), mean_of(updates[:2], sizes[:2])
    total, rest = sum(sizes), sum(sizes[:2])
    right, own = updates[2], sizes[2]
    found = update(answer.one_left(copied(before), total, copied(after), rest), right)
    naive = {k: before[k] - after[k] for k in before}
    mistakes = [
        (naive, "a difference of means is not an update: means have different denominators"),
        (times(1 / own, naive), "a difference of means is not an update: means have different denominators"),
        (
            times(total / own, naive),
            "means have different denominators: each times its own number of samples",
        ),
        (times(own, right), "this is the sum over the client's samples: divide by their number"),
        (times(own / total, right), "divide by the number of the client's samples, not of all"),
        (times(-1, right), "the sign is wrong: before minus after"),
        (times(-own, right), "the sign is wrong: before minus after; then divide by what the client has"),
    ]
    none_of(found, mistakes, right, 1e-4)
    assert close(found, right, 1e-4), (
        "not the update of the client who left: (sum before minus sum after) / number of the client's samples"
    )


def length_of(one):
    return float(torch.cat([t.flatten() for t in one.values()]).norm())


def test_clip(answer, generator):
    kept = draw(generator)
    given, length = copied(kept), length_of(kept)
    found = answer.clip(given, length / 2)
    untouched(given, kept)
    found = update(found, kept)
    assert not close(found, kept, ATOL), (
        "nothing was clipped: assigning to the loop variable changes no dictionary"
    )
    per_tensor = {k: v * min(1.0, length / 2 / float(v.norm())) for k, v in kept.items()}
    by_sum = times(length / 2 / sum(float(v.norm()) for v in kept.values()), kept)
    mistakes = [
        (per_tensor, "each tensor was clipped by itself: one length and one factor for all together"),
        (times(1 / length, kept), "the length is 1 now: it should be the clip norm"),
        (by_sum, "lengths do not add up, their squares do: add squares, then take the root"),
        (times(0.25, kept), "shortened twice: the factor is clip norm / length"),
    ]
    none_of(found, mistakes, times(0.5, kept), ATOL)
    new = length_of(found)
    assert new <= length / 2 * 1.0001, (
        f"length {new:.3g} is above the clip norm {length / 2:.3g}: clip jointly, not per tensor"
    )
    assert close(found, times(new / length, kept), ATOL), (
        "the direction changed: one factor for all parameters"
    )
    assert close(found, times(0.5, kept), 1e-4), (
        f"length {new:.3g}, and the clip norm {length / 2:.3g} was allowed: the factor is clip norm / length"
    )
    short = update(answer.clip(copied(kept), 2 * length), kept)
    assert close(short, kept, ATOL), "an update shorter than the clip norm stays as it is: min(1, factor)"
    zero = times(0, kept)
    assert close(update(answer.clip(zero, 1.0), zero), zero), "a zero update must stay zero: 0 / 0"
