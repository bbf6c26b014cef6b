"""Checks of the exercise `averaging`."""

from __future__ import annotations

import pytest
import torch


def draw(generator):
    return {"w": torch.randn(3, 2, generator=generator), "b": torch.randn(2, generator=generator)}


def close(found, expected):
    return found.keys() == expected.keys() and all(
        torch.allclose(found[k], expected[k], atol=1e-5) for k in expected
    )


def mean_of(updates, weights):
    return {
        k: sum(w * u[k] for w, u in zip(weights, updates, strict=True)) / sum(weights) for k in ("w", "b")
    }


@pytest.fixture
def people(generator):
    sizes = torch.randperm(20, generator=generator)[:3] + 1
    return [draw(generator) for _ in range(3)], sizes.tolist()


def test_weighted_mean(answer, people):
    updates, sizes = people
    found = answer.weighted_mean(updates, sizes)
    assert not close(found, mean_of(updates, [1, 1, 1])), (
        "everybody has the same weight: whoever has more samples counts more"
    )
    total = {k: sum(n * u[k] for n, u in zip(sizes, updates, strict=True)) for k in ("w", "b")}
    assert not close(found, total), "this is the sum over samples: divide by the number of all samples"
    assert close(found, mean_of(updates, sizes)), "not the mean weighted by the number of samples"


def test_one_left(answer, people):
    updates, sizes = people
    before, after = mean_of(updates, sizes), mean_of(updates[:2], sizes[:2])
    found = answer.one_left(before, sum(sizes), after, sum(sizes[:2]))
    naive = {k: before[k] - after[k] for k in before}
    assert not close(found, naive), (
        "a difference of means is not an update: means have different denominators"
    )
    scaled = {k: updates[2][k] * sizes[2] for k in before}
    assert not close(found, scaled) or sizes[2] == 1, (
        "this is the sum over the client's samples: divide by their number"
    )
    assert close(found, updates[2]), "not the update of the client who left"


def test_clip(answer, generator):
    update = draw(generator)
    kept = {name: tensor.clone() for name, tensor in update.items()}
    length = float(torch.cat([t.flatten() for t in update.values()]).norm())
    found = answer.clip(update, length / 2)
    assert all(torch.equal(update[k], kept[k]) for k in kept), (
        "the update that came in was changed: make new tensors"
    )
    assert not close(found, kept), "nothing was clipped: assigning to the loop variable changes no dictionary"
    new = float(torch.cat([t.flatten() for t in found.values()]).norm())
    assert new <= length / 2 * 1.0001, (
        f"length {new:.3g} is above the clip norm {length / 2:.3g}: clip jointly, not per tensor"
    )
    assert close(found, {k: v / 2 for k, v in kept.items()}), (
        "the direction changed: one factor for all parameters"
    )
    assert close(answer.clip(update, 2 * length), kept), "an update shorter than the clip norm stays as it is"
    zero = {k: torch.zeros_like(v) for k, v in kept.items()}
    assert close(answer.clip(zero, 1.0), zero), "a zero update must stay zero: 0 / 0"
