"""The certificate for single samples: always for the truth, never for anything else."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fedpriv
from attacks.layer_spaces import pass_alone, spaces_of
from attacks.peel_certificate import peels_off
from attacks.replay import sent_state
from fedpriv import Knowledge, Observation
from tests.attacks.consistency_scenes import digits, faces, model_for, seen_of
from tests.attacks.scenes import gradient_of, normal, seeded

both_precisions = pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)


@both_precisions
@pytest.mark.parametrize("activation", [nn.ReLU, nn.GELU, nn.Sigmoid])
@pytest.mark.parametrize("n", [2, 3, 16, 64])
def test_every_true_sample_is_certified(n, activation, dtype):
    x, y = faces(n, seed=n, dtype=dtype)
    x = (x - x.mean()) / x.std()  # as for training: else a sigmoid is so linear that float32 hides the rank
    certified = peels_off(seen_of(x, y, width=256, activation=activation), x, y)
    if (n, activation, dtype) == (64, nn.Sigmoid, torch.float32):
        assert (
            certified.float().mean() > 0.5
        )  # a move by the resolution is not much more than the rounding here
    else:
        assert certified.all()


def unlike(x, y, observation, count, seed):
    """Wrong answers of every kind that could be mistaken for the truth, with labels that fit best."""
    n, generator = len(x), seeded(seed)
    flat = x.double().flatten(1)
    rows = spaces_of(observation.gradient()["1.weight"]).rows
    i = torch.randint(n, (count,), generator=generator)
    j = (i + torch.randint(1, n, (count,), generator=generator)) % n
    noise = torch.randn(count, flat.shape[1], generator=generator, dtype=torch.float64)
    inside = (noise @ rows.T) @ rows  # in the row space of the first gradient: linear conditions hold
    share = torch.rand(count, 1, generator=generator, dtype=torch.float64) * 0.98 + 0.01
    others = fedpriv.data.faces()[50:].double().flatten(1)
    index = torch.randint(len(others), (count,), generator=generator)
    size = flat[i].norm(dim=1, keepdim=True)
    nearest = torch.cdist(flat, flat).fill_diagonal_(torch.inf).argmin(1)
    toward = flat[nearest[i]] - flat[i]  # the direction that shows least
    step = (1 + share) * 1e-3 * size / toward.norm(dim=1, keepdim=True)
    return {
        "random": (noise, y[i]),
        "random inside the span": (inside, y[i]),
        "near": (flat[i] + 1e-3 * size * noise / noise.norm(dim=1, keepdim=True), y[i]),
        "near inside the span": (flat[i] + 1e-3 * size * inside / inside.norm(dim=1, keepdim=True), y[i]),
        "toward the nearest": (flat[i] + step * toward, y[i]),
        "mixture of two": (share * flat[i] + (1 - share) * flat[j], y[i]),
        "another batch": (others[index] + 1e-6 * noise, y[i]),
    }


@both_precisions
@pytest.mark.parametrize("activation", [nn.ReLU, nn.GELU, nn.Sigmoid])
@pytest.mark.parametrize("n", [2, 16, 48])
def test_no_wrong_answer_is_certified(n, activation, dtype):
    x, y = digits(n, seed=n, dtype=dtype)
    x = F.interpolate(x, size=25, mode="bilinear")
    observation = seen_of(x, y, width=192, activation=activation)
    wrong = unlike(x, y, observation, 40, seed=n)
    inputs, targets = (torch.cat([pair[k] for pair in wrong.values()]) for k in range(2))
    certified = peels_off(observation, inputs.reshape(-1, 1, 25, 25), targets).split(40)
    assert {kind: int(c.sum()) for kind, c in zip(wrong, certified, strict=True)} == dict.fromkeys(wrong, 0)
    for shift in (1, 4, 9):
        assert not peels_off(observation, x, (y + shift) % 10).any()


def test_a_part_of_the_batch_is_certified_on_its_own():
    x, y = digits(12)
    observation = seen_of(x, y)
    assert peels_off(observation, x[3:5], y[3:5]).all()
    x[4] += 1e-3
    assert peels_off(observation, x[3:5], y[3:5]).tolist() == [True, False]


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_real_targets_must_be_right_too(reduction):
    x, _ = digits(6)
    y = normal(6, 10, dtype=torch.float64)
    model = model_for(x)

    def loss_fn(outputs, targets):
        return F.mse_loss(outputs, targets, reduction=reduction)

    observation = seen_of(x, y, model=model, loss_fn=loss_fn)
    assert peels_off(observation, x, y).all()
    assert not peels_off(observation, x, y + 1e-2 * normal(6, 10, seed=1, dtype=torch.float64)).any()
    # Along its error a wrong target only scales the signal, which another weight would make up for.
    assert not peels_off(observation, x, model(x).detach() + 1.01 * (y - model(x).detach())).any()


def test_more_copies_than_there_were_are_not_certified():
    x, y = digits(6)
    index = torch.tensor([0, 1, 2, 3, 4, 5, 5])
    assert peels_off(seen_of(x, y), x[index], y[index]).tolist() == [True] * 5 + [False] * 2
    assert peels_off(seen_of(x[index], y[index]), x[index], y[index]).all()


def test_more_samples_than_input_coordinates_are_certified_by_the_second_layer():
    x, y = digits(90)
    observation = seen_of(x, y, width=320, activation=nn.GELU)
    assert peels_off(observation, x, y).all()
    assert not peels_off(observation, x + 1e-3 * normal(*x.shape, dtype=x.dtype), y).any()


@pytest.mark.parametrize("other", ["model", "noise", "no targets", "linear", "steps", "not finite"])
def test_withheld_where_nothing_is_proven(other):
    x, y = digits(6)
    model = model_for(x)
    known = {"input_shape": (1, 8, 8)}
    gradient = gradient_of(model, F.cross_entropy, x, y)
    targets, inputs = y, x
    if other == "model":
        model = model_for(x, seed=1)
    elif other == "noise":
        known["noise_std"] = 1e-9
    elif other == "no targets":
        targets = None
    elif other == "not finite":
        inputs = torch.where(x == x.max(), torch.nan, x)
    elif other == "steps":
        known |= {"learning_rate": 0.1, "local_steps": 3}
    elif other == "linear":
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.Linear(32, 32), nn.Linear(32, 10)).double()
        gradient = gradient_of(model, F.cross_entropy, x, y)
    update = gradient
    if other == "steps":
        update = fedpriv.Update(kind="parameters", tensors=dict(model.named_parameters()))
    observation = Observation(model, update, F.cross_entropy, Knowledge(**known))
    assert not peels_off(observation, inputs, targets).any()


def test_signals_are_those_of_each_sample_alone():
    x, y = digits(3)
    model = model_for(x, width=32)
    observation = seen_of(x, y, model=model)
    passed = pass_alone(observation, sent_state(observation, torch.float64), x, y)
    for i in range(3):
        alone = gradient_of(model, F.cross_entropy, x[i : i + 1], y[i : i + 1])
        for index, name in enumerate(["1", "3", "5"]):
            assert torch.allclose(passed.signals[name][i], alone[2 * index + 1], atol=1e-12)
            outer = torch.outer(passed.signals[name][i], passed.inputs[name][i])
            assert torch.allclose(outer, alone[2 * index], atol=1e-12)


def test_a_model_that_mixes_samples_is_not_trusted():
    x, y = digits(6)
    model = nn.Sequential(
        nn.Flatten(), nn.BatchNorm1d(64), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 64)
    ).double()
    assert not peels_off(seen_of(x, y, model=model), x, y).any()


def test_spaces_show_rank_noise_and_refuse_full_rank():
    exact = normal(60, 7, dtype=torch.float64) @ normal(7, 80, seed=1, dtype=torch.float64)
    spaces = spaces_of(exact + 1e-8 * normal(60, 80, seed=2, dtype=torch.float64))
    assert len(spaces.values) == 7
    assert spaces.noise == pytest.approx(1e-8, rel=0.05)
    assert spaces_of(normal(20, 30)) is None
