"""The exact finish of a search, and the search that can be stopped and continued."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fedpriv
from attacks.matching.active_sets import ActiveSets
from attacks.matching.inverting_gradients import InvertingGradients
from attacks.matching.priors import Box
from fedpriv import Knowledge
from tests.attacks.scenes import normal, observe, seeded

CUBE = Box(low=0.0, high=1.0)


def scene(seed, n=4, activation=nn.ReLU, dtype=torch.float32, **known):
    model = fedpriv.models.mlp([40, 120, 80, 5], activation=activation, generator=seeded(seed)).to(dtype)
    x = torch.rand(n, 40, generator=seeded(seed + 1), dtype=torch.float64).to(dtype)
    y = torch.randint(5, (n,), generator=seeded(seed + 2))
    return observe(model, F.cross_entropy, x, y, Knowledge(num_samples=n, **known)), x, y


def distance(found, x):
    """Of every sample to the nearest one that was found."""
    return float(torch.cdist(x.double(), found.double()).amin(1).max())


@pytest.mark.parametrize("seed", [601, 611, 621])
def test_a_rough_batch_is_finished_exactly(seed):
    seen, x, y = scene(seed)
    rough = x + 0.05 * normal(4, 40, seed=seed + 3)
    claim = ActiveSets.of(seen).finish(rough)
    assert distance(claim.inputs, x) < 1e-3 * distance(rough, x)
    assert sorted(claim.targets.tolist()) == sorted(y.tolist())


def test_samples_are_collected_over_several_candidates():
    seen, x, _ = scene(631)
    ending = ActiveSets.of(seen)
    assert ending.finish(x[:2]) is None
    assert len(ending.found) == 2
    assert ending.finish(x[:2]) is None  # the same again is nothing new
    assert len(ending.found) == 2
    assert distance(ending.finish(x[2:]).inputs, x) < 1e-3


def test_what_is_far_from_the_truth_is_not_believed():
    seen, _, _ = scene(641)
    ending = ActiveSets.of(seen)
    assert ending.finish(normal(64, 40, seed=642)) is None or len(ending.found) == 4
    noisy = observe(
        seen.model, F.cross_entropy, torch.rand(4, 40, generator=seeded(643)), torch.tensor([0, 1, 2, 3])
    )
    other = ActiveSets.of(noisy)
    other.finish(torch.rand(4, 40, generator=seeded(644)))  # of another batch
    for point in other.found.coordinates @ other.way.evidence.one.rows:
        assert distance(torch.rand(4, 40, generator=seeded(643)), point[None]) < 1e-3


@pytest.mark.parametrize("activation", [nn.Tanh, nn.GELU])
def test_other_activations_have_no_active_sets(activation):
    assert ActiveSets.of(scene(651, activation=activation)[0]) is None


def test_convolutions_have_none():
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))
    known = Knowledge(num_samples=1, input_shape=(1, 8, 8))
    x = torch.rand(1, 1, 8, 8, generator=seeded(652))
    assert ActiveSets.of(observe(model, F.cross_entropy, x, torch.tensor([0]), known)) is None


@pytest.mark.parametrize("seed", [661, 671, 681])
def test_inverting_gradients_ends_exactly_and_with_a_certificate(seed):
    seen, x, y = scene(seed)
    attack = InvertingGradients(starts=1, steps=300, rate=0.1, smoothness=0.0, scale=0.1, box=CUBE)
    found = attack(seen, generator=seeded(seed))
    again = attack(seen, generator=seeded(seed))
    assert distance(found.inputs, x) < 1e-3, found.notes
    assert sorted(found.targets.tolist()) == sorted(y.tolist())
    assert found.certified.all()
    torch.testing.assert_close(found.inputs, again.inputs, rtol=1e-9, atol=1e-9)


def test_a_finish_in_float64_goes_down_to_its_rounding():
    seen, x, _ = scene(691, dtype=torch.float64)
    claim = ActiveSets.of(seen).finish(x + 0.02 * normal(4, 40, seed=692, dtype=torch.float64))
    assert distance(claim.inputs, x) < 1e-9


def test_declared_values_are_a_box():
    seen, _, _ = scene(701, activation=nn.Tanh, input_values=(0.0, 0.5, 1.0))
    found = InvertingGradients(steps=20, scale=3.0).search(seen, generator=seeded(1))
    assert 0 <= float(found.memory["points"].min()) < float(found.memory["points"].max()) <= 1


def test_a_search_that_is_continued_is_the_whole_search():
    seen, _, _ = scene(711)
    attack = InvertingGradients(steps=30, smoothness=0.1)
    whole = attack.search(seen, generator=seeded(2))
    part = attack.search(seen, generator=seeded(2), pause=11)
    assert (part.step, part.stopped, whole.stopped) == (11, "paused", "done")
    rest = attack.search(seen, generator=seeded(3), resume=part)  # draws nothing any more
    assert torch.equal(rest.best_points, whole.best_points)
    assert (rest.value, rest.starts, rest.stopped) == (whole.value, whole.starts, "done")
