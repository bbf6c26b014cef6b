"""Several local steps of federated averaging: what stays exact, and whole batches out of it."""

from __future__ import annotations

import time

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from attacks.certificate import judge
from attacks.exact.local_steps import LocalStepsInversion
from attacks.exact.local_steps.change import change_of
from attacks.exact.local_steps.training import parameter_slice, train_again
from attacks.exact.local_steps.whitened import efforts, whitened
from attacks.replay import observed_vector, replay
from fedpriv.losses import cross_entropy_sum, squared_error
from tests.attacks.consistency_scenes import ACTIVATIONS, assert_whole, digits, faces, matched, model_for
from tests.attacks.local_steps_scenes import claim_of, returned
from tests.attacks.scenes import normal, seeded, with_knowledge

# What stays exact


@pytest.mark.parametrize(("steps", "lr"), [(2, 0.01), (5, 0.3), (20, 1.0)])
@pytest.mark.parametrize("seed", [1, 2])
def test_span_and_hyperplane_are_exact_however_far_the_model_moved(steps, lr, seed):
    x, y = faces(7, seed=seed)
    observation = returned(x, y, steps=steps, lr=lr, width=48, activation=nn.GELU, seed=seed)
    one = change_of(observation).one
    flat = x.flatten(1)
    coordinates = flat @ one.rows.T
    assert one.rank == 7
    assert float((flat - coordinates @ one.rows).abs().max()) < 1e-9
    assert torch.allclose(coordinates @ one.plane, torch.ones(7, dtype=torch.float64), atol=1e-9)


@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_first_activations_lie_in_the_row_space_of_all_steps_and_mixtures_do_not(activation):
    x, y = faces(6, seed=3)
    observation = returned(x, y, steps=3, lr=1.0, width=64, activation=ACTIVATIONS[activation])
    change = change_of(observation)
    rank = int((torch.linalg.svdvals(change.second) > 1e-11 * torch.linalg.svdvals(change.second)[0]).sum())
    assert rank == 3 * 6  # n E, not n
    rows = torch.linalg.svd(change.second)[2][:rank]
    truth = x.flatten(1) @ change.one.rows.T
    mixtures = torch.rand(50, 6, generator=seeded()).double()
    mixtures = (mixtures / mixtures.sum(1, keepdim=True)) @ truth  # on the hyperplane, too

    def outside(points):
        a = change.layers.act(points @ change.forward + change.layers.bias_1)
        return (a - a @ rows.T @ rows).norm(dim=1) / a.norm(dim=1)

    assert float(outside(truth).max()) < 1e-9
    assert float(outside(mixtures).min()) > 1e-4
    space = whitened(change.second, change.second_bias, change.noise)
    assert float(efforts(change, space, truth).max()) < 1e-6 * float(efforts(change, space, mixtures).min())


def test_replay_agrees_with_the_plain_one_and_drift_makes_one_model_of_many():
    x, y = faces(5, seed=4)
    observation = returned(x, y, steps=4, lr=0.5, width=40, activation=nn.SiLU)
    change = change_of(observation)
    seen = train_again(observation, change.pair.second, x, y)
    assert torch.allclose(seen.total, replay(observation, x, y), rtol=0, atol=1e-14)
    where = parameter_slice(observation, f"{change.pair.second}.weight")
    weight = seen.total[where].view_as(change.second)
    activations = change.layers.act(x.flatten(1) @ change.layers.weight_1.T + change.layers.bias_1)
    # (sum_k D_k)' A_0: of rank n, although the change itself is not.
    assert torch.allclose(weight - seen.drift, seen.signals.T @ activations, rtol=0, atol=1e-13)
    assert torch.linalg.matrix_rank(weight - seen.drift, rtol=1e-10) == 5
    assert torch.linalg.matrix_rank(weight, rtol=1e-10) > 5
    assert torch.allclose(observed_vector(observation), seen.total, rtol=0, atol=1e-12)


# Whole batches


@pytest.mark.parametrize("steps", [2, 5, 10])
@pytest.mark.parametrize("activation", ["relu", "gelu", "sigmoid"])
def test_whole_batch_with_labels(steps, activation):
    x, y = digits(8, seed=20 + steps)
    observation = returned(x, y, steps=steps, lr=0.1, activation=ACTIVATIONS[activation])
    assert_whole(claim_of(observation), x, y, error=1e-9)


@pytest.mark.parametrize("lr", [0.01, 0.1])
def test_whole_batch_is_certified(lr):
    x, y = faces(8, seed=30)
    found = LocalStepsInversion()(returned(x, y, steps=5, lr=lr, activation=nn.GELU))
    assert_whole(found, x, y, error=1e-9)
    assert bool(found.certified.all())


def test_large_steps_amplify_rounding_and_still_give_the_samples():
    x, y = faces(8, seed=30)
    assert_whole(claim_of(returned(x, y, steps=5, lr=1.0, activation=nn.GELU)), x, y, error=1e-9)


def test_replaying_the_training_turns_an_approximation_into_the_samples():
    x, y = digits(16, seed=31)
    observation = returned(x, y, steps=20, lr=0.1, width=128, activation=nn.GELU)
    errors = {}
    for corrections in (0, 30):
        _, distance = matched(claim_of(observation, corrections=corrections).inputs, x)
        errors[corrections] = float(distance.max())
    assert errors[30] < 1e-9 < 1e-8 < errors[0] < 1e-1


@pytest.mark.parametrize("activation", ["relu", "silu"])
def test_single_precision(activation):
    x, y = digits(8, seed=32, dtype=torch.float32)
    observation = returned(x, y, steps=5, lr=0.1, activation=ACTIVATIONS[activation])
    found = LocalStepsInversion()(observation)
    assert_whole(found, x, y, error=1e-3)
    assert bool(found.certified.all())


@pytest.mark.parametrize("loss_fn", [F.cross_entropy, cross_entropy_sum])
def test_repeated_samples_keep_their_multiplicity(loss_fn):
    x, y = faces(5, seed=33)
    x, y = x[[0, 1, 2, 3, 4, 2]], y[[0, 1, 2, 3, 4, 2]]
    observation = returned(x, y, steps=3, lr=0.02, loss_fn=loss_fn, activation=nn.GELU)
    claim = claim_of(observation)
    _, distance = matched(claim.inputs, x)
    assert len(claim.inputs) == 6
    assert float(distance.max()) < 1e-9
    assert sorted(claim.targets.tolist()) == sorted(y.tolist())


@pytest.mark.parametrize(("loss_fn", "lr"), [(F.mse_loss, 0.1), (squared_error, 0.002)])
def test_real_targets(loss_fn, lr):
    x, y = normal(5, 20, seed=34, dtype=torch.float64), normal(5, 4, seed=35, dtype=torch.float64)
    observation = returned(x, y, steps=4, lr=lr, loss_fn=loss_fn, width=64, activation=nn.GELU, outputs=4)
    claim = claim_of(observation)
    nearest, distance = matched(claim.inputs, x)
    assert float(distance.max()) < 1e-9
    assert float((claim.targets[nearest] - y).abs().max()) < 1e-9


# One sample


@pytest.mark.parametrize("lr", [0.01, 1.0])
def test_one_sample_is_the_ratio_of_two_changes_and_needs_one_layer_only(lr):
    x, y = faces(1, seed=36)
    observation = returned(x, y, steps=10, lr=lr, model=model_for(x, depth=1, width=16))
    found = LocalStepsInversion()(observation)
    assert_whole(found, x, y, error=1e-9)
    assert bool(found.certified.all())


def test_one_sample_with_real_targets():
    x, y = normal(1, 9, seed=37, dtype=torch.float64), normal(1, 3, seed=38, dtype=torch.float64)
    model = model_for(x, depth=1, width=12, outputs=3, activation=nn.Tanh)
    found = LocalStepsInversion()(returned(x, y, steps=5, lr=0.3, loss_fn=F.mse_loss, model=model))
    assert float((found.inputs - x).abs().max()) < 1e-10
    assert float((found.targets - y).abs().max()) < 1e-10
    assert bool(found.certified.all())


def test_batch_size_of_all_samples_is_a_full_batch():
    x, y = digits(4, seed=43)
    observation = returned(x, y, steps=2, lr=0.1, width=48, batch_size=4)
    (told,) = with_knowledge([observation], num_samples=4)
    assert_whole(claim_of(told), x, y, error=1e-9)


# What is not certified


@pytest.mark.parametrize("wrong", [{"learning_rate": 0.12}, {"local_steps": 9}])
def test_wrong_settings_cost_the_certificate_and_not_the_samples(wrong):
    x, y = digits(8, seed=39)
    observation = returned(x, y, steps=5, lr=0.1, activation=nn.ReLU)
    (declared,) = with_knowledge([observation], **wrong)
    found = LocalStepsInversion(patience=2)(declared)
    assert not bool(found.certified.any())
    assert "a declared setting may be wrong" in found.notes[0]
    _, distance = matched(found.inputs, x)
    assert float(distance.max()) < 1e-2  # the equations of the search know neither of them


def test_wrong_samples_are_never_certified():
    x, y = faces(4, seed=40)
    observation = returned(x, y, steps=3, lr=0.1, width=48, activation=nn.GELU)
    attack = LocalStepsInversion()

    def rerun(other):
        again = attack.run(other, generator=seeded(), deadline=time.perf_counter() + 10)
        return again.inputs, again.targets

    right = judge((observation,), x, y, rerun)
    assert bool(right.certified.all())
    swapped = y.roll(1)
    near = x.clone()
    near[0] += 1e-6 * normal(*x.shape[1:], seed=41, dtype=torch.float64)
    other = faces(5, seed=40)[0][[0, 1, 2, 4]]
    for inputs, targets in ((x, swapped), (near, y), (other, y), (x[:3], y[:3])):
        assert not bool(judge((observation,), inputs, targets, rerun).certified.any())
