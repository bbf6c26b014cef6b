"""What moments do not single out, priors and malicious servers that help, and what is refused by name."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import attacks
import fedpriv
from attacks import MomentInversion, NotIdentifiable
from attacks.malicious import chosen_models
from fedpriv import Knowledge
from fedpriv.losses import squared_error
from tests.attacks.scenes import (
    max_abs_error,
    normal,
    observe,
    random_visits,
    seeded,
    with_knowledge,
)

POINTS = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
LABELS = torch.tensor([[0.0], [0.0], [1.0], [1.0]])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_declared_prior_solves_the_tutorials_pooled_points(dtype):
    seen = random_visits(POINTS.to(dtype), LABELS.to(dtype), rounds=6)
    declared = with_knowledge(seen, input_values=(0.0, 1.0), target_values=(0.0, 1.0))
    found = attacks.reconstruct(declared)
    assert max_abs_error(torch.cat([found.inputs, found.targets], 1), torch.cat([POINTS, LABELS], 1)) < 1e-6
    assert "the declared values single them out" in str(attacks.identifiability(declared))


def test_an_ambiguous_prior_is_refused():
    # In one dimension these two sets have equal number, sum and sum of squares, and y = 0 throughout.
    one = torch.tensor([[0.0], [0.0], [3.0], [3.0], [3.0]], dtype=torch.float64)
    other = torch.tensor([[1.0], [1.0], [1.0], [2.0], [4.0]], dtype=torch.float64)
    assert (one.sum(), (one**2).sum()) != (other.sum(), (other**2).sum())
    one = torch.tensor([[0.0], [4.0], [5.0]], dtype=torch.float64)
    other = torch.tensor([[1.0], [2.0], [6.0]], dtype=torch.float64)
    assert (one.sum(), (one**2).sum()) == (other.sum(), (other**2).sum())
    seen = random_visits(one, torch.zeros(3, 1, dtype=torch.float64), rounds=6)
    declared = with_knowledge(seen, input_values=tuple(float(v) for v in range(7)), target_values=(0.0, 1.0))
    with pytest.raises(NotIdentifiable, match="several data sets with the declared values"):
        MomentInversion()(declared)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ((5.0, 6.0), "no point of the data's span has only the declared values|is the prior right"),
        (tuple(float(v) for v in range(300)), "too many to list"),
    ],
)
def test_a_prior_that_does_not_help_says_why(values, message):
    seen = random_visits(POINTS.double(), LABELS.double(), rounds=6)
    with pytest.raises(NotIdentifiable, match=message):
        MomentInversion()(with_knowledge(seen, input_values=values))


def test_chosen_models_are_better_conditioned_than_training():
    ratios = []
    for seed in range(8):
        x, y = normal(2, 6, seed=seed), normal(2, 1, seed=seed + 1)
        model = fedpriv.models.linear(6, generator=seeded(seed))
        chosen = fedpriv.training.ChosenModels(chosen_models(model, visits=4, generator=seeded(seed)))
        malicious, curious = (
            fedpriv.FederatedTrainer(model, squared_error, {"bob": (x, y)}, lr=0.01, schedule=schedule).run(4)
            for schedule in (chosen, "sequential")
        )
        error, along = (
            max_abs_error(MomentInversion()(run.transcript.observations("bob")).inputs, x)
            for run in (malicious, curious)
        )
        ratios.append(error / along)
    assert np.median(ratios) < 0.2  # measured: 0.03
    assert max(ratios) < 1


def test_chosen_models_learn_nothing_but_moments():
    x, y = normal(3, 4, dtype=torch.float64), normal(3, 1, seed=1, dtype=torch.float64)
    model = nn.Linear(4, 1).double()
    seen = []
    for state in chosen_models(model, visits=8):
        model.load_state_dict(state)
        seen.append(observe(model, squared_error, x, y))
    with pytest.raises(NotIdentifiable, match="only up to a rotation"):
        MomentInversion()(seen)


def test_chosen_models_refuse_bad_input():
    for arguments in ({"visits": 1}, {"visits": 3, "scale": 0.0}, {"visits": 3, "scale": float("inf")}):
        with pytest.raises(ValueError, match=r"visits must be 2 or more|scale must be a positive number"):
            chosen_models(nn.Linear(2, 1), **arguments)


def test_theorem_a_rotation_that_fixes_the_ones_changes_no_gradient_of_any_linear_model():
    x, y = normal(3, 4, dtype=torch.float64), normal(3, 2, seed=1, dtype=torch.float64)
    ones = torch.ones(3, dtype=torch.float64) / 3**0.5
    turn = torch.linalg.matrix_exp(1.1 * torch.linalg.cross(torch.eye(3, dtype=torch.float64), ones[None]))
    assert torch.allclose(turn @ turn.T, torch.eye(3, dtype=torch.float64))
    assert torch.allclose(turn @ ones, ones)
    assert max_abs_error(turn @ x, x) > 0.1  # other people
    for seed in range(5):
        one, other = (
            random_visits(data, targets, rounds=1, seed=seed)[0].gradient()
            for data, targets in ((x, y), (turn @ x, turn @ y))
        )
        assert all(torch.allclose(one[name], other[name], atol=1e-12) for name in one)


class WithRelu(nn.Linear):
    def forward(self, x):
        return super().forward(x).relu()


@pytest.mark.parametrize(
    ("model", "loss_fn", "message"),
    [
        (nn.Sequential(nn.Linear(3, 2), nn.Tanh(), nn.Linear(2, 1)), squared_error, "more layers than one"),
        (nn.Linear(3, 1, bias=False), squared_error, "no bias"),
        (WithRelu(3, 1), squared_error, "computes more than its linear layer"),
        (nn.Sequential(nn.Linear(3, 1), nn.BatchNorm1d(1, affine=False)), squared_error, "computes more"),
        (nn.Linear(3, 1), F.l1_loss, "not a multiple of the squared error"),
        (nn.Linear(3, 1), lambda o, t: squared_error(o, t) + 1.0, "not a multiple of the squared error"),
    ],
)
def test_what_is_no_linear_regression_is_refused_by_name(model, loss_fn, message):
    seen = [observe(model, loss_fn, normal(2, 3, seed=s), normal(2, 1)) for s in range(3)]
    before = {n: t.clone() for n, t in seen[0].model.state_dict().items()}
    with pytest.raises(NotIdentifiable, match=message):
        MomentInversion()(seen)
    assert all(torch.equal(t, before[n]) for n, t in seen[0].model.state_dict().items())


def test_visits_of_different_data_are_not_taken_for_one_data_set():
    seen = [random_visits(normal(2, 3, seed=s), normal(2, 1, seed=s), rounds=1, seed=s)[0] for s in range(9)]
    with pytest.raises(NotIdentifiable, match=r"do not fit one data set|only up to a rotation|lie in"):
        MomentInversion()(seen)


def test_as_many_visits_as_dimensions_do_not_tell_the_count():
    # Nine equations for nine unknowns, of which one follows from the others: A is symmetric.
    for seed in range(5):
        x, y = normal(4, 6, seed=seed, dtype=torch.float64), normal(4, 1, seed=9, dtype=torch.float64)
        seen = random_visits(x, y, rounds=3, seed=seed)
        with pytest.raises(NotIdentifiable, match="at least 3 samples, and nobody told how many"):
            MomentInversion()(seen)
        report = attacks.identifiability(seen)
        assert (report.rank, report.min_samples, report.max_samples) == (3, 3, None)
        assert "One more visit tells more" in str(report)


def test_clients_weighted_by_their_samples_hide_the_count():
    clients = {"bob": (normal(1, 3), normal(1, 1)), "alice": (normal(3, 3, seed=2), normal(3, 1, seed=3))}
    trainer = fedpriv.FederatedTrainer(
        fedpriv.models.linear(3),
        squared_error,
        clients,
        lr=0.02,
        defenses=[fedpriv.defenses.Averaging()],
        weights="samples",
        schedule="fedsgd",
    )
    seen = trainer.run(rounds=8).transcript.observations("aggregator")
    unknown = attacks.identifiability(with_knowledge(seen, num_samples=None))
    assert "5 samples" not in str(unknown)  # what the corner of A says


def test_an_absurd_count_allocates_nothing():
    x, y = normal(1, 4, dtype=torch.float64), normal(1, 1, dtype=torch.float64)
    seen = with_knowledge(random_visits(x, y, rounds=3, loss_fn=F.mse_loss), num_samples=2**31 - 1)
    with pytest.raises(NotIdentifiable, match="too many samples to list"):
        MomentInversion()(seen)


def test_noise_is_told_from_samples():
    x, y = normal(2, 5, dtype=torch.float64), normal(2, 1, seed=1, dtype=torch.float64)
    seen = random_visits(x, y, rounds=8)
    noisy = [
        fedpriv.Observation(
            o.model,
            {n: g + 1e-3 * normal(*g.shape, seed=i, dtype=torch.float64) for n, g in o.gradient().items()},
            o.loss_fn,
            Knowledge(noise_std=1e-3, num_samples=2),
            state=o.state,
        )
        for i, o in enumerate(seen)
    ]
    found = MomentInversion()(noisy)
    assert 1e-6 < max_abs_error(found.inputs, x) < 0.1
    assert not found.certified.any()
    assert "up to the noise" in str(attacks.identifiability(noisy))


@pytest.mark.parametrize("d", [5, 8, 20])
def test_a_diverging_training_does_not_spoil_what_its_first_visits_show(d):
    for seed in range(4):
        x, y = normal(2, d, seed=seed), normal(2, 1, seed=50 + seed)
        run = fedpriv.FederatedTrainer(
            fedpriv.models.linear(d, generator=seeded(seed)), squared_error, {"bob": (x, y)}, lr=0.5
        ).run(9)
        assert run.losses[-1] > 1e6 * run.losses[0]  # it does diverge
        found = attacks.reconstruct(run.transcript, client="bob")
        assert max_abs_error(found.inputs, x) < 1e-3
        assert max_abs_error(found.targets, y) < 1e-3
