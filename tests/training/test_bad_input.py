from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from fedpriv.defenses import Averaging, Clip, GaussianNoise
from fedpriv.losses import squared_error
from fedpriv.training import ChosenModels, FederatedTrainer, FedSGD, Sequential, train_centrally
from tests.training.toy import CLIENTS, X, Y, linear


def trainer(clients=CLIENTS, loss_fn=squared_error, model=None, **settings):
    return FederatedTrainer(model or linear(), loss_fn, clients, **{"lr": 0.1, **settings})


@pytest.mark.parametrize(
    ("clients", "message"),
    [
        ({}, "with at least one client"),
        ([(X, Y)], "clients must be a mapping"),
        ({"bob": X}, r"a pair \(inputs, targets\) of tensors"),
        ({"bob": (X, [1.0])}, r"a pair \(inputs, targets\) of tensors"),
        ({"bob": (X[:0], Y[:0])}, "inputs of client 'bob' must hold at least one sample"),
        ({"bob": (torch.tensor(1.0), Y)}, "inputs of client 'bob' must hold at least one sample"),
        ({"bob": (X, Y[:3])}, "one target for each input, got 4 inputs and 3 targets"),
        ({"bob": (X * math.nan, Y)}, "inputs of client 'bob' must be finite"),
        ({"bob": (X, Y + math.inf)}, "targets of client 'bob' must be finite"),
        ({"aggregator": (X, Y)}, "other than 'aggregator'"),
    ],
)
def test_bad_clients(clients, message):
    with pytest.raises(ValueError, match=message):
        trainer(clients)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lr": 0.0}, "lr must be a positive finite number, got 0.0"),
        ({"lr": -0.1}, "lr must be a positive"),
        ({"lr": math.nan}, "lr must be a positive"),
        ({"lr": math.inf}, "lr must be a positive"),
        ({"local_steps": 0}, "local_steps must be a whole number of 1 or more, got 0"),
        ({"local_steps": 1.5}, "local_steps must be a whole number"),
        ({"batch_size": 0}, "batch_size must be a whole number of 1 or more, got 0"),
        ({"clients_per_round": 0}, "clients_per_round must be a whole number"),
        ({"clients_per_round": 3}, "at most the number of clients, 2, got 3"),
        ({"weights": "votes"}, r"weights must be one of \['uniform', 'samples'\], got 'votes'"),
        ({"schedule": "random"}, r"one of \['sequential', 'fedsgd', 'fedavg'\].*got 'random'"),
        ({"schedule": 3}, "schedule must be one of"),
        ({"schedule": FedSGD(), "local_steps": 2}, "so local_steps must be 1, got 2"),
        ({"schedule": Sequential(), "defenses": [Averaging()]}, "nothing to average; use schedule=FedAvg"),
        ({"clients_per_round": 1, "defenses": [Averaging()]}, "at least 2 clients in a round, got 1"),
        ({"clients": {"bob": (X, Y)}, "defenses": [Averaging()]}, "a mean over one client hides nothing"),
        ({"defenses": [Averaging(), GaussianNoise()]}, "needs a Clip"),
        ({"defenses": [Clip]}, "defenses must be objects"),
        ({"loss_fn": "mse"}, "loss_fn must be callable"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        trainer(**settings)


def test_bad_models():
    with pytest.raises(ValueError, match=r"must be a torch\.nn\.Module, got str"):
        trainer(model="linear")
    with pytest.raises(ValueError, match="at least one trainable parameter"):
        trainer(model=linear().requires_grad_(False))


@pytest.mark.parametrize("rounds", [-1, 1.5, True])
def test_bad_numbers_of_rounds(rounds):
    with pytest.raises(ValueError, match="rounds must be a whole number of 0 or more"):
        trainer().run(rounds=rounds)


def test_no_rounds_at_all_is_a_run_of_nothing():
    run = trainer().run(rounds=0)
    assert (run.losses, run.round_losses, len(run.transcript)) == ([], [], 0)


def test_losses_that_are_no_number_name_round_and_client():
    with pytest.raises(
        ValueError, match=r"round 0, client 'bob': loss_fn must return one number.*got \(2, 1\)"
    ):
        trainer(loss_fn=lambda outputs, targets: (outputs - targets) ** 2).run(rounds=1)
    with pytest.raises(ValueError, match="round 0, client 'bob': loss_fn must depend on the model's outputs"):
        trainer(loss_fn=lambda outputs, _: outputs.detach().sum()).run(rounds=1)


def test_diverged_training_names_round_and_client():
    with pytest.raises(
        ValueError, match=r"round \d+, client '(bob|alice)': the loss must be finite.*lower lr"
    ):
        trainer(lr=1e10).run(rounds=100)


@pytest.mark.parametrize("defenses", [[], [Clip()], [Averaging()]])
def test_a_gradient_that_is_not_finite_is_named(defenses):
    # sqrt(0) has the value 0 and an infinite slope
    with pytest.raises(ValueError, match="NaN or infinity"):
        trainer(loss_fn=lambda o, _: (o * 0).sum().sqrt(), defenses=defenses).run(rounds=1)


def test_the_state_of_another_model_is_refused():
    state = trainer(model=nn.Sequential(linear())).initial_state()
    with pytest.raises(ValueError, match="pass the state of a run of the same model"):
        trainer().run(rounds=1, state=state)


def test_chosen_models_must_fit():
    with pytest.raises(ValueError, match="at least one state dict"):
        ChosenModels([])
    with pytest.raises(ValueError, match="same architecture"):
        trainer(schedule=ChosenModels([nn.Linear(3, 1).state_dict()])).run(rounds=1)


def test_bad_central_training():
    with pytest.raises(ValueError, match="lr must be"):
        train_centrally(linear(), squared_error, X, Y, lr=0.0, steps=1)
    with pytest.raises(ValueError, match="steps must be a whole number"):
        train_centrally(linear(), squared_error, X, Y, lr=0.1, steps=-1)
    with pytest.raises(ValueError, match="4 inputs and 3 targets"):
        train_centrally(linear(), squared_error, X, Y[:3], lr=0.1, steps=1)
    with pytest.raises(ValueError, match="training diverged"):
        train_centrally(linear(), squared_error, X, Y, lr=1e10, steps=100)


@pytest.mark.parametrize(
    ("inputs", "targets", "loss_fn"),
    [
        (torch.zeros(2, 4), torch.zeros(2, 1), squared_error),
        (torch.zeros(2, 2), torch.tensor([7, 7]), torch.nn.functional.cross_entropy),
        (torch.zeros(2, 2, dtype=torch.float64), torch.zeros(2, 1), squared_error),
    ],
    ids=["inputs too wide", "classes that do not exist", "other precision"],
)
def test_data_that_do_not_fit_the_model_are_a_sentence_with_their_shapes(inputs, targets, loss_fn):
    model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Linear(3, 3))
    trainer = FederatedTrainer(model, loss_fn, {"bob": (inputs, targets)}, lr=0.1)
    with pytest.raises(
        ValueError, match=r"round 0, client 'bob': model and loss must accept inputs of shape"
    ):
        trainer.run(1)
