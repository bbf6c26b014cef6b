from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fedpriv.defenses import Averaging, Clip
from fedpriv.losses import squared_error
from fedpriv.privacy import cramer_rao_bound
from fedpriv.training import FederatedTrainer
from fedpriv.wire import Knowledge, Observation, Update


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def output_sum(outputs, _targets):
    return outputs.sum()


def observe(model, loss_fn=squared_error, *, kind="gradient", **knowledge):
    """An observation of whatever came back: the bound does not use the values."""
    tensors = {n: torch.zeros_like(p) for n, p in model.named_parameters() if p.requires_grad}
    return Observation(model, Update(kind=kind, tensors=tensors), loss_fn, Knowledge(**knowledge))


NO_TARGET = torch.tensor([0])


def hand_jacobian(w, b, x, y):
    """Of g = 2 r (x, 1), r = w.x + b - y, by x and y; one sample."""
    r = w @ x + b - y
    by_x = np.vstack([2 * (np.outer(x, w) + r * np.eye(len(x))), 2 * w])
    by_y = np.append(-2 * x, -2.0)
    return np.column_stack([by_x, by_y])


@pytest.mark.parametrize("features", [1, 2, 5])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_tutorial_model_against_the_jacobian_by_hand(features, seed):
    generator = seeded(seed)
    model = nn.Linear(features, 1, dtype=torch.float64)
    x = torch.randn(1, features, generator=generator, dtype=torch.float64)
    y = torch.randn(1, 1, generator=generator, dtype=torch.float64)
    w, b = model.weight.detach().numpy()[0], model.bias.item()
    J = hand_jacobian(w, b, x.numpy()[0], y.item())
    expected = 0.3**2 * np.trace(np.linalg.inv(J.T @ J)[:features, :features]) / features
    assert cramer_rao_bound(observe(model), x, y, noise_std=0.3) == pytest.approx(expected, rel=1e-6)


def test_visits_add_information():
    generator = seeded()
    models = [nn.Linear(2, 1, dtype=torch.float64) for _ in range(3)]
    x, y = (torch.randn(1, k, generator=generator, dtype=torch.float64) for k in (2, 1))
    information = sum(
        J.T @ J
        for m in models
        for J in [hand_jacobian(m.weight.detach().numpy()[0], m.bias.item(), x.numpy()[0], y.item())]
    )
    expected = np.trace(np.linalg.inv(information)[:2, :2]) / 2
    visits = [observe(model) for model in models]
    assert cramer_rao_bound(visits, x, y, noise_std=1.0) == pytest.approx(expected, rel=1e-6)
    assert cramer_rao_bound(visits[:1] * 2, x, y, noise_std=1.0) == pytest.approx(
        cramer_rao_bound(visits[0], x, y, noise_std=1.0) / 2
    )


def test_two_tutorial_samples_are_determined_by_two_visits_and_not_by_one():
    """T1: two visits suffice for two samples in any dimension; one visit has fewer numbers than unknowns."""
    for features in (2, 5):
        visits = [observe(nn.Linear(features, 1)) for _ in range(2)]
        x, y = torch.randn(2, features, generator=seeded(1)), torch.randn(2, 1, generator=seeded(2))
        assert math.isinf(cramer_rao_bound(visits[0], x, y, noise_std=0.1))
        assert math.isfinite(cramer_rao_bound(visits, x, y, noise_std=0.1))


def test_three_tutorial_samples_never_are():
    """T1: from three samples on a rotation stays free, whatever the number of visits."""
    visits = [observe(nn.Linear(3, 1, dtype=torch.float64)) for _ in range(12)]
    x, y = torch.randn(3, 3, generator=seeded(1)), torch.randn(3, 1, generator=seeded(2))
    assert math.isinf(cramer_rao_bound(visits, x, y, noise_std=0.1))


def test_a_linear_unbiased_estimator_attains_it():
    """A frozen map A, then a layer with m outputs and loss sum: every row of its gradient is A x.

    Least squares from the mean row has the error sigma² tr((AᵀA)⁻¹) / m, which is the bound.
    """
    m, d, wide, sigma = 3, 2, 4, 0.7
    model = nn.Sequential(nn.Linear(d, wide, bias=False), nn.Linear(wide, m, bias=False)).double()
    model[0].requires_grad_(False)
    A = model[0].weight
    x = torch.randn(1, d, generator=seeded(), dtype=torch.float64)
    bound = cramer_rao_bound(observe(model, output_sum), x, NO_TARGET, noise_std=sigma)
    assert bound == pytest.approx(sigma**2 * float(torch.linalg.inv(A.T @ A).trace()) / m / d)
    draws = 20_000
    noisy = (A @ x[0]) + sigma * torch.randn(draws, m, wide, generator=seeded(1), dtype=torch.float64)
    estimates = noisy.mean(1) @ torch.linalg.pinv(A).T
    error = (estimates - x).square().mean()
    # A mean of squares over 20 000 draws: relative standard error below sqrt(2 / 20 000) = 1 %.
    assert float(error) == pytest.approx(bound, rel=0.05)


def test_returned_parameters_carry_the_learning_rate():
    model, x, y = nn.Linear(2, 1), torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0]])
    of_gradient = cramer_rao_bound(observe(model), x, y, noise_std=0.1)
    sent = observe(model, kind="parameters", learning_rate=0.1)
    assert cramer_rao_bound(sent, x, y, noise_std=0.1) == pytest.approx(of_gradient * 100)


def test_local_steps_are_replayed():
    # the gradient of an output sum does not depend on the weights: s steps move s times as far
    model, x = nn.Linear(2, 1, bias=False), torch.tensor([[1.0, 2.0]])
    sent = observe(model, output_sum, kind="parameters", learning_rate=0.1, local_steps=5)
    assert cramer_rao_bound(sent, x, NO_TARGET, noise_std=1.0) == pytest.approx(1 / 0.5**2)


def test_clipping_takes_information():
    model, x, y = nn.Linear(2, 1), torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0]])
    free = cramer_rao_bound(observe(model), x, y, noise_std=0.1)
    assert cramer_rao_bound(observe(model), x, y, noise_std=0.1, clip_norm=1e6) == pytest.approx(free)
    # without a bias the gradient of an output sum is x itself, and its direction does not tell its length
    plain = observe(nn.Linear(2, 1, bias=False), output_sum)
    assert cramer_rao_bound(plain, x, NO_TARGET, noise_std=1.0) == pytest.approx(1.0)
    assert math.isinf(cramer_rao_bound(plain, x, NO_TARGET, noise_std=1.0, clip_norm=1.0))
    with_bias = observe(nn.Linear(2, 1), output_sum)
    open_ = cramer_rao_bound(with_bias, x, NO_TARGET, noise_std=1.0)
    assert open_ < cramer_rao_bound(with_bias, x, NO_TARGET, noise_std=1.0, clip_norm=1.0) < math.inf


def test_known_labels_tell_more_than_unknown_targets():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Sigmoid(), nn.Linear(8, 3)).double()
    x = torch.randn(2, 4, generator=seeded())
    labels = torch.tensor([0, 2])
    hard = cramer_rao_bound(observe(model, F.cross_entropy), x, labels, noise_std=0.01)
    soft = cramer_rao_bound(observe(model, F.cross_entropy), x, F.one_hot(labels, 3).double(), noise_std=0.01)
    assert 0 < hard < soft


def test_batch_norm_in_train_mode_uses_the_statistics_of_the_batch():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 2))
    x, labels = torch.randn(3, 3, generator=seeded()), torch.tensor([0, 1, 1])
    before = model[1].running_mean.clone()
    bound = cramer_rao_bound(observe(model, F.cross_entropy), x, labels, noise_std=0.01)
    assert bound > 0
    assert torch.equal(model[1].running_mean, before)
    assert model[0].weight.dtype == torch.float32


def test_no_noise_no_error_where_the_data_are_determined():
    model = nn.Linear(2, 1)
    assert cramer_rao_bound(observe(model), torch.ones(1, 2), torch.ones(1, 1) * 9, noise_std=0.0) == 0.0
    assert math.isinf(cramer_rao_bound(observe(model), torch.eye(2), torch.ones(2, 1) * 9, noise_std=0.0))


def test_a_transcript_of_a_trainer_goes_in_as_it_is():
    x, y = torch.tensor([[0.0, 1.0], [1.0, 1.0]]), torch.tensor([[0.0], [1.0]])
    run = FederatedTrainer(nn.Linear(2, 1), squared_error, {"bob": (x, y)}, lr=0.1, defenses=[Clip()]).run(
        rounds=3
    )
    bounds = [
        cramer_rao_bound(run.transcript.observations(client="bob")[:k], x, y, noise_std=0.01, clip_norm=1.0)
        for k in (2, 3)
    ]
    assert bounds[1] <= bounds[0]
    pooled = FederatedTrainer(
        nn.Linear(2, 1), squared_error, {"bob": (x, y), "alice": (x, y)}, lr=0.1, defenses=[Averaging()]
    ).run(rounds=1)
    with pytest.raises(ValueError, match="averaged over"):
        cramer_rao_bound(pooled.transcript.observations()[0], x, y, noise_std=0.1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"noise_std": -1.0}, "noise_std must be 0 or more"),
        ({"noise_std": math.nan}, "noise_std must be 0 or more"),
        ({"clip_norm": 0.0}, "clip_norm must be a positive"),
        ({"inputs": torch.zeros(0, 2), "targets": torch.zeros(0, 1)}, "at least one input"),
        ({"targets": torch.zeros(2, 1)}, "one target for each"),
        ({"observation": []}, "non-empty sequence"),
        ({"observation": observe(nn.Linear(2, 1), kind="parameters")}, "learning rate, which is unknown"),
        (
            {
                "observation": observe(nn.Linear(2, 1), batch_size=1),
                "inputs": torch.ones(2, 2),
                "targets": torch.ones(2, 1),
            },
            "full batches",
        ),
        ({"observation": observe(nn.Sequential(nn.Dropout(0.5), nn.Linear(2, 1)))}, "dropout"),
    ],
)
def test_bad_input(settings, message):
    arguments = {
        "observation": observe(nn.Linear(2, 1)),
        "inputs": torch.ones(1, 2),
        "targets": torch.ones(1, 1),
        "noise_std": 0.1,
        **settings,
    }
    observation, inputs, targets = (arguments.pop(name) for name in ("observation", "inputs", "targets"))
    with pytest.raises(ValueError, match=message):
        cramer_rao_bound(observation, inputs, targets, **arguments)


def test_batch_norm_statistics_on_the_wire_are_refused():
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 1))
    x, y = torch.randn(4, 2, generator=seeded()), torch.ones(4, 1)
    run = FederatedTrainer(model, squared_error, {"bob": (x, y)}, lr=0.1).run(rounds=1)
    with pytest.raises(ValueError, match=r"carries the buffers \['1\.running_mean', '1\.running_var'\]"):
        cramer_rao_bound(run.transcript.observations()[0], x, y, noise_std=0.1)
