"""What consistency and peeling says where it cannot work."""

from __future__ import annotations

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from attacks import NotIdentifiable
from attacks.exact.consistency import ConsistencyPeeling, features
from fedpriv import Knowledge, Observation, Update
from tests.attacks.consistency_scenes import digits, model_for, seen_of
from tests.attacks.scenes import gradient_of, normal


def reason_for(observation):
    reason = ConsistencyPeeling().why_not((observation,))
    assert reason is not None
    with pytest.raises(NotIdentifiable, match="consistency and peeling does not apply"):
        ConsistencyPeeling()(observation)
    return reason


def test_no_two_layers():
    x, y = digits(4)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).double()
    assert "no two consecutive linear layers" in reason_for(seen_of(x, y, model=model))


def test_no_linear_layer():
    model = nn.Sequential(nn.Conv2d(1, 10, 8), nn.Flatten()).double()
    x, y = digits(2)
    assert "no linear layer" in reason_for(seen_of(x, y, model=model))


@pytest.mark.parametrize("between", [nn.LayerNorm(64), nn.BatchNorm1d(64), nn.Dropout(0.5), nn.Softmax(1)])
def test_something_between_that_is_not_elementwise(between):
    x, y = digits(4)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), between, nn.Linear(64, 32), nn.Flatten()).double()
    reason = reason_for(seen_of(x, y, model=model))
    assert "no two consecutive linear layers with an elementwise activation" in reason
    assert ("dropout" in reason) == isinstance(between, nn.Dropout)


def test_a_pair_behind_a_convolution_gives_features_only():
    x, y = digits(3)
    head = [nn.Flatten(), nn.Linear(72, 32), nn.ReLU(), nn.Linear(32, 10)]
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Tanh(), *head).double()
    assert "give features, not inputs" in reason_for(seen_of(x, y, model=model))


@pytest.mark.parametrize("layer", ["1", "3"])
def test_a_frozen_layer_is_named(layer):
    x, y = digits(4)
    model = model_for(x)
    model.get_parameter(f"{layer}.weight").requires_grad_(False)
    assert f"the linear layer '{layer}' is frozen" in reason_for(seen_of(x, y, model=model))


def test_dead_neurons():
    x, y = digits(4)
    model = model_for(x)
    with torch.no_grad():
        model[1].bias.fill_(-100.0)
    assert "all neurons around it are dead" in reason_for(seen_of(x, y, model=model))


def test_batch_larger_than_the_layers():
    x, y = digits(60)
    assert "batch is at least as large as the layer" in reason_for(seen_of(x, y, width=40))


def test_batch_too_large_for_its_equations():
    x, y = digits(30)
    assert "fewer equations than unknowns" in reason_for(seen_of(x, y, width=48))


def test_second_layer_with_too_few_outputs():
    x, y = digits(20)
    model = model_for(x, depth=1)
    assert "10 outputs or their signals are too few" in reason_for(seen_of(x, y, model=model))


def test_lengths_that_nothing_tells():
    x, _ = digits(4)
    layers = [nn.Linear(64, 48, bias=False), nn.ReLU(), nn.Linear(48, 32, bias=False), nn.Linear(32, 10)]
    model = nn.Sequential(nn.Flatten(), *layers).double()
    observation = seen_of(x, normal(4, 10, dtype=x.dtype), model=model, loss_fn=F.mse_loss)
    assert "up to their lengths only" in reason_for(observation)


def test_declared_noise():
    x, y = digits(4)
    known = Knowledge(input_shape=(1, 8, 8), noise_std=0.1)
    assert "noise of standard deviation 0.1" in reason_for(seen_of(x, y, knowledge=known))


def test_noise_that_nobody_declared():
    x, y = digits(4)
    model = model_for(x)
    gradient = [g + 1e-3 * normal(*g.shape, dtype=g.dtype) for g in gradient_of(model, F.cross_entropy, x, y)]
    observation = Observation(model, gradient, F.cross_entropy, Knowledge(input_shape=(1, 8, 8)))
    assert "no gap" in reason_for(observation)


def test_several_local_steps():
    x, _ = digits(4)
    model = model_for(x)
    update = Update(kind="parameters", tensors=dict(model.named_parameters()))
    known = Knowledge(input_shape=(1, 8, 8), learning_rate=0.1, local_steps=5)
    assert "5 local step" in reason_for(Observation(model, update, F.cross_entropy, known))


def test_a_layer_that_starts_no_pair():
    x, y = digits(4)
    with pytest.raises(NotIdentifiable, match=r"no pair .* starts at '5'; those that do are \['1', '3'\]"):
        features(seen_of(x, y), layer="5")


def test_input_shape_is_asked_for():
    x, y = digits(3)
    head = [nn.Flatten(), nn.Linear(72, 32), nn.ReLU(), nn.Linear(32, 10)]
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Tanh(), *head).double()
    observation = seen_of(x, y, model=model, knowledge=Knowledge(num_samples=3))
    assert "set Knowledge.input_shape" in reason_for(observation)


def test_one_visit_that_can_be_solved_is_enough():
    x, y = digits(4)
    usable = seen_of(x, y)
    noisy = Observation(
        usable.model,
        usable.update,
        usable.loss_fn,
        dataclasses.replace(usable.knowledge, noise_std=1.0),
        state=usable.state,
    )
    assert ConsistencyPeeling().why_not((noisy, usable)) is None


@pytest.mark.parametrize("between", [nn.Identity(), nn.Dropout(0.3).eval()], ids=["identity", "dropout off"])
def test_layers_without_a_nonlinearity_between_them_are_refused_at_once(between):
    model = nn.Sequential(nn.Linear(12, 30), between, nn.Linear(30, 8)).double().eval()
    x, y = torch.randn(3, 12, generator=torch.Generator().manual_seed(1)).double(), torch.tensor([0, 1, 2])
    gradient = torch.autograd.grad(nn.functional.cross_entropy(model(x), y), model.parameters())
    reason = ConsistencyPeeling().why_not((Observation(model, gradient, nn.functional.cross_entropy),))
    assert "nothing nonlinear stands between" in str(reason)
