"""Consistency and peeling as an attack: whole batches, exactly, and everything it promises beyond that."""

from __future__ import annotations

import time

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from attacks import NotIdentifiable
from attacks.exact.consistency import ConsistencyPeeling
from attacks.exact.consistency import peel as rounds
from attacks.peel_certificate import peels_off
from fedpriv import Knowledge, Observation, Update
from tests.attacks.consistency_scenes import (
    ACTIVATIONS,
    assert_whole,
    claim_of,
    digits,
    faces,
    matched,
    model_for,
    seen_of,
)
from tests.attacks.scenes import gradient_of, normal, same, seeded, snapshot

all_activations = pytest.mark.parametrize("activation", ACTIVATIONS.values(), ids=ACTIVATIONS)


@all_activations
@pytest.mark.parametrize("n", [8, 16])
def test_every_digit_and_label_through_every_activation(activation, n):
    x, y = digits(n, seed=n)
    found = claim_of(seen_of(x, y, activation=activation))
    assert_whole(found, x, y, error=1e-6)
    assert found.targets.dtype == torch.int64
    assert found.notes == ()


@all_activations
def test_faces_from_float32_gradients_above_60_db(activation):
    x, y = faces(8, seed=3, dtype=torch.float32)
    found = claim_of(seen_of(x, y, width=256, activation=activation))
    index, _ = matched(found.inputs, x)
    mse = (found.inputs[index] - x.double()).square().flatten(1).mean(1)
    assert len(found.inputs) == len(x)
    assert float((-10 * mse.log10()).min()) > 60  # the pixels lie in [0, 1]
    assert torch.equal(found.targets[index], y)


@pytest.mark.slow
@pytest.mark.parametrize("n", [64, 128])
@pytest.mark.parametrize("activation", [nn.ReLU, nn.GELU, nn.Tanh, nn.Sigmoid])
def test_large_batches_in_wide_layers(activation, n):
    x, y = digits(n, seed=n)
    x = F.interpolate(x, size=28, mode="bilinear")
    x = x + 0.02 * normal(*x.shape, seed=n, dtype=x.dtype)  # else 64 source pixels span all of them
    observation = seen_of(x, y, width=512, activation=activation)
    found = claim_of(observation, seconds=60)
    assert_whole(found, x, y, error=1e-4)
    assert peels_off(observation, found.inputs, found.targets).all()


def test_more_samples_than_input_coordinates():
    x, y = digits(90, seed=4)
    found = claim_of(seen_of(x, y, width=320, activation=nn.GELU))
    assert_whole(found, x, y, error=1e-6)


@pytest.mark.parametrize("activation", [nn.ReLU, nn.GELU])
def test_without_any_bias(activation):
    x, y = digits(8, seed=5)
    layers = [nn.Flatten()]
    for size_in, size_out in ((64, 128), (128, 128), (128, 10)):
        layers += [nn.Linear(size_in, size_out, bias=False), activation()]
    model = nn.Sequential(*layers[:-1]).double()
    found = claim_of(seen_of(x, y, model=model))
    assert_whole(found, x, y, error=1e-6)


def test_copies_come_back_as_often_as_they_were_there():
    x, y = digits(8, seed=6)
    x[5], y[5], x[6], y[6] = x[4], y[4], x[4], y[4]
    found = claim_of(seen_of(x, y))
    truth = torch.cat([x.flatten(1), y[:, None]], 1)
    rows = torch.cat([found.inputs.flatten(1), found.targets[:, None]], 1)
    assert sorted(truth.round(decimals=4).tolist()) == sorted((rows.round(decimals=4) + 0.0).tolist())
    assert any("copies" in note for note in found.notes)


def test_one_input_with_two_labels_comes_back_with_both():
    x, y = digits(8, seed=7)
    x[1], y[1] = x[0], (y[0] + 3) % 10
    observation = seen_of(x, y)
    found = claim_of(observation)
    assert len(found.inputs) == 8
    copies = (found.inputs - x[:1]).abs().flatten(1).amax(1) < 1e-6
    assert sorted(found.targets[copies].tolist()) == sorted(y[:2].tolist())
    assert peels_off(observation, found.inputs, found.targets).all()


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_real_targets_under_squared_errors(reduction):
    x, _ = digits(8, seed=8)
    y = normal(8, 10, seed=9, dtype=torch.float64)
    observation = seen_of(x, y, loss_fn=lambda out, target: F.mse_loss(out, target, reduction=reduction))
    found = claim_of(observation)
    assert_whole(found, x, y, error=1e-6)
    assert peels_off(observation, found.inputs, found.targets).all()


def test_one_output_and_a_real_target_need_no_third_layer():
    x, _ = digits(6, seed=10)
    y = normal(6, 1, seed=11, dtype=torch.float64)
    found = claim_of(seen_of(x, y, model=model_for(x, outputs=1), loss_fn=F.mse_loss))
    assert_whole(found, x, y, error=1e-6)


def test_summed_loss_and_smoothed_labels():
    x, y = digits(8, seed=12)
    for loss_fn in (
        lambda out, target: F.cross_entropy(out, target, reduction="sum"),
        lambda out, target: F.cross_entropy(out, target, label_smoothing=0.1),
    ):
        found = claim_of(seen_of(x, y, loss_fn=loss_fn))
        assert_whole(found, x, y, error=1e-6)


def test_soft_labels():
    x, _ = digits(8, seed=13)
    y = (2 * normal(8, 10, seed=14, dtype=torch.float64)).softmax(1)
    found = claim_of(seen_of(x, y))
    assert_whole(found, x, y, error=1e-6)
    assert "came once; declare" in found.assumed
    assert claim_of(seen_of(x, y, knowledge=Knowledge(input_shape=(1, 8, 8), num_samples=8))).assumed is None


def test_returned_parameters_of_one_step():
    x, y = digits(8, seed=15, dtype=torch.float32)
    model = model_for(x)
    gradient = gradient_of(model, F.cross_entropy, x, y)
    after = {n: p.detach() - 0.5 * g for (n, p), g in zip(model.named_parameters(), gradient, strict=True)}
    known = Knowledge(input_shape=(1, 8, 8), learning_rate=0.5)
    found = claim_of(Observation(model, Update(kind="parameters", tensors=after), F.cross_entropy, known))
    assert_whole(found, x, y, error=1e-2)


def test_an_average_over_clients_gives_everyones_samples():
    x, y = digits(12, seed=16)
    model = model_for(x)
    parts = [gradient_of(model, F.cross_entropy, x[i : i + 4], y[i : i + 4]) for i in (0, 4, 8)]
    tensors = {n: sum(p) / 3 for (n, _), *p in zip(model.named_parameters(), *parts, strict=True)}
    update = Update(kind="gradient", tensors=tensors, sender="aggregator", contributors=("a", "b", "c"))
    found = claim_of(Observation(model, update, F.cross_entropy, Knowledge(input_shape=(1, 8, 8))))
    assert_whole(found, x, y, error=1e-6)


def test_a_clipped_update_keeps_its_samples():
    x, y = digits(8, seed=17)
    model = model_for(x)
    gradient = [0.037 * g for g in gradient_of(model, F.cross_entropy, x, y)]
    found = claim_of(Observation(model, gradient, F.cross_entropy, Knowledge(input_shape=(1, 8, 8))))
    assert_whole(found, x, y, error=1e-6)


def test_what_was_found_when_time_ran_out_is_certified(monkeypatch):
    x, y = digits(48, seed=18)
    observation = seen_of(x, y, width=192)
    first_count, clock = rounds.next_count, time.perf_counter
    started = []

    def once(*args, **kwargs):
        started.append(True)
        return first_count(*args, **kwargs)

    monkeypatch.setattr(rounds, "next_count", once)
    monkeypatch.setattr(rounds.time, "perf_counter", lambda: clock() + 1e6 * bool(started))
    found = claim_of(observation, seconds=60)
    assert 0 < len(found.inputs) < 48
    assert f"{len(found.inputs)} of 48 different samples were found" in found.notes
    back, _ = matched(x, found.inputs)
    assert torch.equal(found.targets, y[back])
    assert peels_off(observation, found.inputs, found.targets).all()


def test_the_same_seed_gives_the_same_answer_and_nothing_is_changed():
    x, y = digits(12, seed=19, dtype=torch.float32)
    observation = seen_of(x, y)
    before, global_state = snapshot(observation), torch.random.get_rng_state()
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in observation.model.modules()]
    one, two = (claim_of(observation, seed=5) for _ in range(2))
    assert torch.equal(one.inputs, two.inputs)
    assert torch.equal(one.targets, two.targets)
    assert same(before, snapshot(observation))
    assert torch.equal(global_state, torch.random.get_rng_state())
    assert hooks == [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in observation.model.modules()]


def test_small_batches_in_half_precision():
    x, y = normal(4, 20, seed=4, dtype=torch.float16), torch.arange(4)
    found = claim_of(seen_of(x, y, width=256, activation=nn.GELU))
    assert_whole(found, x, y, error=1e-2)


def test_the_search_ends_when_nothing_new_turns_up():
    x, y = digits(6, seed=21)
    model, other = model_for(x), model_for(x, seed=1)
    gradient = gradient_of(other, F.cross_entropy, x, y)
    observation = Observation(model, gradient, F.cross_entropy, Knowledge(input_shape=(1, 8, 8)))
    start = time.perf_counter()
    with pytest.raises(NotIdentifiable, match="none of 6 samples was found"):
        ConsistencyPeeling(most_starts=32, patience=2)(observation)
    assert time.perf_counter() - start < 10


def test_call_grades_and_certifies():
    x, y = digits(4, seed=20)
    found = ConsistencyPeeling()(seen_of(x, y), generator=seeded(1))
    assert found.certified.all(), found.notes
    assert found.residual < 1e-10
    assert found.method == "consistency and peeling"


@pytest.mark.parametrize("name", ["first_starts", "most_starts", "memory_limit", "patience"])
@pytest.mark.parametrize("value", [0, -1])
def test_hyperparameters_are_checked(name, value):
    with pytest.raises(ValueError, match=f"{name} must be positive, got {value}"):
        ConsistencyPeeling(**{name: value})
