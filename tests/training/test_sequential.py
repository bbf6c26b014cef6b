from __future__ import annotations

import copy
from itertools import pairwise

import pytest
import torch
from torch import nn

from fedpriv.defenses import Clip, GaussianNoise
from fedpriv.losses import squared_error
from fedpriv.training import FederatedTrainer, Sequential, train_centrally
from tests.training.toy import CLIENTS, X, Y, linear, plain_loop, same_values, seeded


@pytest.mark.parametrize("local_steps", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_bit_is_that_of_the_plain_loop(local_steps, dtype):
    model = linear(dtype=dtype)
    clients = {name: (x.to(dtype), y.to(dtype)) for name, (x, y) in CLIENTS.items()}
    run = FederatedTrainer(model, squared_error, clients, lr=0.1, local_steps=local_steps).run(rounds=10)
    expected, losses = plain_loop(model, clients, lr=0.1, rounds=10, local_steps=local_steps)
    assert same_values(run.model, expected)
    assert run.losses == losses


def test_a_deep_model_with_batch_norm_is_that_of_the_plain_loop():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 1))
    run = FederatedTrainer(model, squared_error, CLIENTS, lr=0.05, local_steps=2).run(rounds=5)
    expected, losses = plain_loop(model, CLIENTS, lr=0.05, rounds=5, local_steps=2)
    assert same_values(run.model, expected)  # running statistics and batch counters included
    assert run.losses == losses
    assert int(run.model[1].num_batches_tracked) == 20


def test_the_transcript_is_a_chain():
    run = FederatedTrainer(linear(), squared_error, CLIENTS, lr=0.1).run(rounds=3)
    assert [e.update.sender for e in run.transcript] == ["bob", "alice"] * 3
    assert [e.update.round for e in run.transcript] == [0, 0, 1, 1, 2, 2]
    exchanges = list(run.transcript)
    for earlier, later in pairwise(exchanges):
        assert all(torch.equal(earlier.update.tensors[name], t) for name, t in later.sent.items())
    assert all(torch.equal(exchanges[-1].update.tensors[n], p) for n, p in run.model.named_parameters())


def test_the_observed_gradient_is_the_gradient():
    run = FederatedTrainer(linear(), squared_error, CLIENTS, lr=0.1).run(rounds=1)
    observation = run.transcript.observations(client="bob")[0]
    model = linear()
    squared_error(model(X[:2]), Y[:2]).backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(observation.gradient()[name], parameter.grad, rtol=1e-5, atol=1e-5)


def test_knowledge_holds_the_public_settings_and_no_number_of_samples():
    trainer = FederatedTrainer(linear(), squared_error, CLIENTS, lr=0.1, local_steps=2, batch_size=1)
    run = trainer.run(rounds=1)
    knowledge = run.transcript.knowledge
    assert (knowledge.learning_rate, knowledge.local_steps, knowledge.batch_size) == (0.1, 2, 1)
    assert knowledge.num_samples is None
    assert knowledge.input_shape == (2,)
    assert knowledge.weighting is None
    assert all(update.num_samples is None for update in run.transcript.updates())


def test_clipping_bounds_what_each_client_moves():
    run = FederatedTrainer(linear(), squared_error, CLIENTS, lr=0.1, defenses=[Clip(clip_norm=0.01)]).run(
        rounds=2
    )
    for exchange in run.transcript:
        moved = torch.cat([(t - exchange.sent[n]).reshape(-1) for n, t in exchange.update.tensors.items()])
        # sent values have size 1: adding the difference to them rounds at 1e-7
        assert float(moved.norm()) == pytest.approx(0.01, abs=1e-6)
    assert [r.client for r in run.reports] == ["bob", "alice", "bob", "alice"]
    assert [r.round for r in run.reports] == [0, 0, 1, 1]
    assert all(r.values["clipped"] for r in run.reports)


def test_noise_moves_the_model_by_the_announced_standard_deviation():
    model = nn.Linear(300, 1)
    x, y = torch.zeros(2, 300), torch.zeros(2, 1)
    defenses = [GaussianNoise(clip_norm=0.5, noise_multiplier=0.2)]
    trainer = FederatedTrainer(
        model, squared_error, {"bob": (x, y)}, lr=0.1, defenses=defenses, generator=seeded()
    )
    run = trainer.run(rounds=20)
    assert run.transcript.knowledge.noise_std == pytest.approx(0.1)
    steps = torch.cat([(e.update.tensors["weight"] - e.sent["weight"]).reshape(-1) for e in run.transcript])
    # Inputs are zero, so weights move by noise alone: 6000 draws, standard error 1/sqrt(12000) = 0.9 %.
    assert float(steps.std()) == pytest.approx(0.1, rel=0.05)


def test_defended_buffers_are_defended_too_and_counters_stay_home():
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 1))
    defenses = [GaussianNoise(clip_norm=1e-3, noise_multiplier=1e-3)]
    run = FederatedTrainer(model, squared_error, CLIENTS, lr=0.1, defenses=defenses).run(rounds=1)
    first = next(iter(run.transcript))
    moved = first.update.tensors["1.running_mean"] - first.sent["1.running_mean"]
    assert 0 < float(moved.norm()) < 2e-3
    assert "1.num_batches_tracked" not in first.update.tensors


def test_nothing_that_was_passed_is_changed():
    model, x, y = linear(), X.clone(), Y.clone()
    before = copy.deepcopy(model)
    FederatedTrainer(model, squared_error, {"bob": (x, y)}, lr=0.1).run(rounds=2)
    assert same_values(model, before)
    assert torch.equal(x, X)
    assert torch.equal(y, Y)
    assert all(p.grad is None for p in model.parameters())


def test_frozen_layers_stay_and_are_absent_from_updates():
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    model[0].requires_grad_(False)
    run = FederatedTrainer(model, squared_error, CLIENTS, lr=0.01).run(rounds=2)
    assert torch.equal(run.model[0].weight, model[0].weight)
    assert not torch.equal(run.model[1].weight, model[1].weight)
    assert list(run.transcript.updates()[0].tensors) == ["1.weight", "1.bias"]
    assert set(next(iter(run.transcript)).sent) == set(model.state_dict())
    run.transcript.observations()  # they fit the model


def test_tied_parameters_travel_under_both_names():
    model = nn.Sequential(nn.Linear(2, 2), nn.Tanh(), nn.Linear(2, 2), nn.Linear(2, 1))
    model[2].weight = model[0].weight
    run = FederatedTrainer(model, squared_error, CLIENTS, lr=0.1).run(rounds=2)
    expected, _ = plain_loop(model, CLIENTS, lr=0.1, rounds=2)
    assert same_values(run.model, expected)
    assert run.model[2].weight is run.model[0].weight
    run.transcript.observations()


def test_dropout_follows_the_generator_and_leaves_the_global_one_alone():
    model = nn.Sequential(nn.Linear(2, 20), nn.Dropout(0.5), nn.Linear(20, 1))
    state = torch.get_rng_state()
    first, again, other = (
        FederatedTrainer(model, squared_error, CLIENTS, lr=0.01, generator=seeded(seed)).run(rounds=2)
        for seed in (1, 1, 2)
    )
    assert torch.equal(torch.get_rng_state(), state)
    assert first.losses == again.losses
    assert first.losses != other.losses
    assert first.model.training


def test_central_training_is_full_batch_gradient_descent():
    model = linear()
    run = train_centrally(model, squared_error, X, Y, lr=0.1, steps=20)
    expected, losses = plain_loop(model, {"everyone": (X, Y)}, lr=0.1, rounds=20)
    assert same_values(run.model, expected)
    assert run.losses == losses
    assert same_values(model, linear())


def test_the_tutorial_learns():
    run = FederatedTrainer(linear(), squared_error, CLIENTS, lr=0.1, schedule=Sequential()).run(rounds=50)
    assert run.round_losses[-1] < 0.05 * run.round_losses[0]
    assert len(run.round_losses) == 50
    assert run.round_losses[3] == pytest.approx(sum(run.losses[6:8]) / 2)
