"""What the page computes: the scene, the limits, the answer, the cost."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

import fedpriv
from fedpriv.lab.explore import Choice, Data, Model, answer, cost, limits, observe
from fedpriv.lab.explore.federation import NAMES, federation
from fedpriv.privacy.normal import cdf, quantile

SMALL = [
    Choice(data=data, model=model, batch_size=2, seed=3) for data in Data for model in data.models
]  # every pair that the page offers


@pytest.mark.parametrize("choice", SMALL, ids=lambda c: f"{c.data.name}-{c.model.name}")
def test_every_pair_on_the_page_makes_a_scene(choice):
    scene = observe(choice)
    assert scene.sender == "bob"
    assert len(scene.truth[0]) == len(scene.truth[1]) == 2
    assert 0 <= float(scene.truth[0].min()) <= float(scene.truth[0].max()) <= 1
    assert math.isfinite(scene.norm)
    assert all(math.isfinite(loss) for loss in scene.losses)


def test_the_same_choice_gives_the_same_scene_and_another_seed_another():
    first, again, other = (observe(Choice(seed=seed)) for seed in (5, 5, 6))
    for name, tensor in first.observations[0].update.tensors.items():
        assert torch.equal(tensor, again.observations[0].update.tensors[name])
        assert not torch.equal(tensor, other.observations[0].update.tensors[name])


def test_nobody_shares_a_sample_and_the_mean_comes_from_the_aggregator():
    choice = Choice(people=8, batch_size=4)
    people = federation(choice)
    assert tuple(people) == NAMES
    samples = torch.cat([inputs for inputs, _ in people.values()]).flatten(1)
    distances = torch.cdist(samples, samples) + torch.eye(len(samples))
    assert float(distances.min()) > 0
    scene = observe(choice)
    assert scene.sender == "aggregator"
    assert scene.observations[0].update.contributors == NAMES


def test_the_update_of_several_is_the_mean_of_what_each_alone_would_send():
    choice = Choice(people=2, batch_size=3)
    scene = observe(choice)
    observation = scene.observations[0]
    model, loss_fn = observation.model, observation.loss_fn
    state = {name: tensor.clone().requires_grad_() for name, tensor in observation.state.items()}
    gradients = []
    for inputs, targets in scene.people.values():
        outputs = torch.func.functional_call(model, state, (inputs,))
        gradients.append(torch.autograd.grad(loss_fn(outputs, targets), list(state.values())))
    for name, first, second in zip(state, *gradients, strict=True):
        torch.testing.assert_close(observation.update.tensors[name], (first + second) / 2)


@pytest.mark.parametrize(("people", "expected"), [(1, 0.6), (4, 0.15)])
def test_noise_is_the_multiplier_times_the_clip_norm_divided_by_the_people(people, expected):
    quiet = Choice(people=people, batch_size=2, clip_norm=2.0)
    noisy = observe(replace(quiet, noise_multiplier=0.3))
    assert noisy.noise_std == pytest.approx(expected)
    added = torch.cat(
        [
            (tensor - observe(quiet).observations[0].update.tensors[name]).flatten()
            for name, tensor in noisy.observations[0].update.tensors.items()
        ]
    )
    # The sample deviation of n normal numbers errs by 1 / sqrt(2 n) of it: five of these.
    assert float(added.std()) == pytest.approx(expected, rel=5 / math.sqrt(2 * len(added)))


def test_a_clipped_update_is_no_longer_than_the_clip_norm():
    assert observe(Choice(clip_norm=0.1)).norm <= 0.1 < observe(Choice()).norm


@pytest.mark.parametrize("visits", [1, 4])
def test_epsilon_is_that_of_the_gaussian_mechanism(visits):
    choice = Choice(people=3, batch_size=1, visits=visits, clip_norm=0.5, noise_multiplier=3.0)
    line = limits.epsilon(observe(choice))
    exact = fedpriv.privacy.epsilon(noise_multiplier=3.0, delta=1e-5, rounds=visits)
    assert line.value == pytest.approx(exact, rel=1e-3)
    for word in ("client", "add/remove", "δ = 1e-05", "aggregator"):
        assert word in line.meaning
    assert math.isinf(limits.epsilon(observe(Choice(clip_norm=1.0))).value)


def test_the_bound_on_success_is_the_power_of_the_best_test():
    choice = Choice(batch_size=1, visits=4, clip_norm=1.0, noise_multiplier=3.0)
    expected = cdf(quantile(0.1) + math.sqrt(4) / 3.0)
    assert limits.success(observe(choice)).value == pytest.approx(expected)
    assert limits.success(observe(Choice())).value == 1.0


def test_the_least_error_is_proportional_to_the_noise():
    choice = Choice(data=Data.POINTS, model=Model.LINEAR, batch_size=2, visits=4, clip_norm=50.0)
    small, large = (
        limits.error(observe(replace(choice, noise_multiplier=noise))).value for noise in (1e-8, 1e-7)
    )
    assert large / small == pytest.approx(10.0, rel=1e-2)
    assert math.isnan(limits.error(observe(choice)).value)
    pooled = limits.error(observe(replace(choice, people=2, noise_multiplier=1.0)))
    assert "one client only" in pooled.meaning


def test_points_come_back_from_a_few_visits_and_not_from_one():
    choice = Choice(data=Data.POINTS, model=Model.LINEAR, batch_size=2, visits=4, seed=11)
    found = answer(choice)
    assert found.recovered == 2
    assert found.certified == (True, True)
    assert found.labels_right == (True, True)
    assert found.found is not None
    torch.testing.assert_close(found.found, found.truth, atol=1e-3, rtol=0)
    one_visit = answer(replace(choice, visits=1))  # could be a single sample, and is claimed as one
    assert one_visit.num_claimed == 1
    assert one_visit.recovered == 0
    assert one_visit.certified == (False, False)


def test_a_refusal_is_an_answer_too():
    found = answer(Choice(model=Model.LINEAR, batch_size=2, seed=14))
    assert found.found is None
    assert found.psnr == (-math.inf, -math.inf)
    assert found.certified == (False, False)
    assert found.labels_right is None
    assert "cannot be recovered" in found.refusal


def test_what_is_determined_is_told_where_the_samples_are_not():
    choice = Choice(data=Data.POINTS, model=Model.LINEAR, batch_size=2, people=4, visits=8, seed=15)
    found = answer(choice)
    assert found.determined["num_samples"] == pytest.approx((8.0,))
    assert found.determined["mean"] == pytest.approx(tuple(found.truth.mean(0).tolist()), abs=1e-3)


def test_a_batch_of_several_people_comes_back_in_the_order_of_the_truth():
    said = []
    found = answer(Choice(people=2, batch_size=3, seed=12), said.append)
    assert found.recovered == 6
    assert found.found is not None
    torch.testing.assert_close(found.found, found.truth, atol=1e-3, rtol=0)
    assert min(found.psnr) > 40 > max(found.guess_psnr)
    assert said[0] == "attacking"


def test_strong_noise_leaves_nothing_that_counts_as_recovered():
    found = answer(Choice(batch_size=1, clip_norm=1.0, noise_multiplier=1.0, seed=13, time_budget=3.0))
    assert found.recovered == 0
    assert not any(found.certified)


def test_the_cost_grows_with_the_noise_and_averaging_alone_has_none():
    bare = Choice(data=Data.POINTS, model=Model.LINEAR, batch_size=1, people=2)
    free = cost.cost(bare)
    dear = cost.cost(replace(bare, clip_norm=1.0, noise_multiplier=3.0))
    assert free is not None
    assert dear is not None
    assert free.with_defense == free.without == dear.without
    assert dear.with_defense > 3 * dear.without
    assert "ε" in dear.words
    assert "ε" not in free.words


def test_the_training_for_the_cost_can_be_stopped():
    choice = Choice(data=Data.POINTS, model=Model.LINEAR, batch_size=1, seed=99)
    assert cost.cost(choice, go_on=lambda: False) is None
    assert cost.cost(choice) is not None
