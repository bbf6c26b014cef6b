"""Every refusal of the wire says what was expected, what came, and what to do."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fedpriv.wire import Exchange, FrozenTensors, Knowledge, Observation, Transcript, Update

GOOD = {"weight": torch.ones(1, 2), "bias": torch.ones(1)}


@pytest.mark.parametrize(
    ("update", "message"),
    [
        ({"weight": torch.ones(1, 2)}, r"must have the parameters .* \(missing \['bias'\]"),
        ({**GOOD, "other": torch.ones(1)}, r"not in the model \['other'\]"),
        ({"w": torch.ones(1, 2), "b": torch.ones(1)}, "give one tensor for every trainable parameter"),
        ({**GOOD, "weight": torch.ones(2, 1)}, r"shape \(1, 2\) for 'weight', got \(2, 1\)"),
        ({**GOOD, "bias": torch.ones(())}, r"shape \(1,\) for 'bias', got \(\)"),
        ({**GOOD, "bias": torch.tensor([math.nan])}, "must be finite, but 'bias' contains NaN"),
        ({**GOOD, "bias": torch.tensor([math.inf])}, "must be finite"),
        ({**GOOD, "bias": [1.0]}, "must map parameter names to tensors, got 'bias': list"),
        ({0: torch.ones(1, 2), 1: torch.ones(1)}, "must map parameter names to tensors, got 0"),
        ({**GOOD, "bias": torch.ones(1, dtype=torch.int64)}, "real numbers, but .*bias"),
        ({**GOOD, "bias": torch.ones(1, dtype=torch.complex64)}, "of torch.complex64; convert it"),
        ({}, "missing"),
        ([], r"must have 2 tensors .*, got 0"),
        ([torch.ones(1, 2)] * 3, r"must have 2 tensors .*, got 3"),
        (7, "must be a mapping or a sequence, got int"),
        (None, "must be a mapping or a sequence, got NoneType"),
    ],
)
def test_an_update_that_does_not_fit(update, message):
    with pytest.raises(ValueError, match=message):
        Observation(nn.Linear(2, 1), update, F.mse_loss)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"model": "linear"}, "model must be a torch.nn.Module, got str"),
        ({"loss_fn": 3}, "loss_fn must be callable"),
        ({"knowledge": {"num_samples": 1}}, "knowledge must be a Knowledge, got dict"),
        ({"state": nn.Linear(3, 1).state_dict()}, "belongs to another model"),
        ({"state": [torch.ones(1)]}, "must be a mapping from parameter names to tensors, got list"),
    ],
)
def test_an_observation_of_wrong_parts(arguments, message):
    parts = {"model": nn.Linear(2, 1), "update": GOOD, "loss_fn": F.mse_loss, **arguments}
    with pytest.raises(ValueError, match=message):
        Observation(**parts)


def test_a_model_that_diverged():
    model = nn.Linear(2, 1)
    nn.init.constant_(model.weight, math.nan)
    with pytest.raises(ValueError, match=r"the model that was sent must be finite.*smaller learning rate"):
        Observation(model, GOOD, F.mse_loss)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"learning_rate": 0.0}, "rate of zero the returned model says nothing"),
        ({"learning_rate": -0.1}, "learning_rate must be a positive number, got -0.1"),
        ({"learning_rate": math.nan}, "learning_rate"),
        ({"learning_rate": "fast"}, "learning_rate must be a positive number, got 'fast'"),
        ({"learning_rate": True}, "learning_rate"),
        ({"num_samples": 0}, "num_samples must be a whole number of 1 or more, got 0"),
        ({"num_samples": 1.5}, "num_samples"),
        ({"num_samples": True}, "num_samples"),
        ({"num_samples": math.inf}, "num_samples"),
        ({"num_samples": 2**40}, "num_samples"),
        ({"num_classes": -1}, "num_classes"),
        ({"local_steps": 0}, "local_steps"),
        ({"local_steps": None}, "local_steps"),
        ({"batch_size": 0}, "batch_size"),
        ({"input_shape": (0,)}, "input_shape"),
        ({"input_shape": ("28",)}, "input_shape"),
        ({"input_shape": 28.0}, "input_shape"),
        ({"input_shape": (2**20, 2**20)}, "product of at most"),
        ({"noise_std": -1.0}, "noise_std must be a number of 0 or more, got -1.0"),
        ({"noise_std": math.inf}, "noise_std"),
        ({"input_values": (1.0,)}, "at least two different finite values"),
        ({"input_values": (1.0, 1.0)}, "at least two different finite values"),
        ({"target_values": (0.0, math.nan)}, "target_values"),
        ({"target_values": "01"}, "target_values"),
        ({"weighting": "votes"}, "weighting must be one of"),
    ],
)
def test_knowledge_out_of_range(settings, message):
    with pytest.raises(ValueError, match=message):
        Knowledge(**settings)


def test_knowledge_survives_json_and_refuses_strangers():
    knowledge = Knowledge(num_samples=3, input_shape=(1, 2), learning_rate=0.5, input_values=(0.0, 1.0))
    assert Knowledge.from_json(knowledge.to_json()) == knowledge
    assert Knowledge.from_json({}) == Knowledge()
    for bad in ({"password": 1}, [], None, "x"):
        with pytest.raises(ValueError, match="knowledge must be an object"):
            Knowledge.from_json(bad)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "model"}, "kind must be one of"),
        ({"kind": ["gradient"]}, "kind must be one of"),
        ({"round": -1}, "round must be a whole number of 0 or more, got -1"),
        ({"round": math.nan}, "round"),
        ({"num_samples": 0}, "num_samples must be a whole number of 1 or more, got 0"),
        ({"sender": ""}, "names of clients"),
        ({"sender": 3}, "names of clients"),
        ({"contributors": (1, 2)}, "names of clients"),
        ({"tensors": [torch.ones(1)]}, "mapping from parameter names to tensors"),
    ],
)
def test_an_update_of_wrong_parts(settings, message):
    with pytest.raises(ValueError, match=message):
        Update(**{"kind": "gradient", "tensors": GOOD, **settings})


def test_returned_parameters_need_the_learning_rate_and_one_full_step():
    update = Update(kind="parameters", tensors=GOOD)
    for knowledge, message in [
        (Knowledge(), "only with the learning rate"),
        (Knowledge(learning_rate=0.1, local_steps=3), "took 3 local"),
        (Knowledge(learning_rate=0.1, batch_size=2), "on mini-batches"),
    ]:
        with pytest.raises(ValueError, match=message):
            Observation(nn.Linear(2, 1), update, F.mse_loss, knowledge).gradient()


def test_a_transcript_of_anything_but_exchanges():
    with pytest.raises(ValueError, match="made of Exchange"):
        Transcript([GOOD], model=nn.Linear(2, 1), loss_fn=F.mse_loss)


def test_a_transcript_of_another_model():
    update = Update(kind="gradient", tensors=GOOD, sender="bob")
    visit = Exchange(sent=nn.Linear(2, 1).state_dict(), update=update)
    transcript = Transcript([visit], model=nn.Linear(3, 1), loss_fn=F.mse_loss)
    with pytest.raises(ValueError, match="belongs to another model: pass the model of this training run"):
        transcript.observations("bob")


def test_nothing_at_all_is_fine_for_frozen_tensors():
    assert len(FrozenTensors({})) == 0
