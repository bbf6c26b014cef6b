"""The tutorial's leak against plain oracles: what least squares reveals, and nothing more."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

import attacks
from attacks import MomentInversion, NotIdentifiable
from attacks.exact.moments import find_span, samples_of_two, solve_moments
from attacks.exact.polish import polish
from attacks.exact.visits import visits_of
from fedpriv.losses import half_squared_error, squared_error
from tests.attacks.scenes import (
    max_abs_error,
    normal,
    random_visits,
    visits,
    with_knowledge,
)

SLOW = settings(max_examples=15, deadline=None, derandomize=True)


def oracle_moments(seen):
    """(A, c) of a model with one output by plain least squares: every visit says A theta - c = g / 2."""
    d = seen[0].state["weight"].shape[1] + 1
    rows, right = [], []
    for o in seen:
        theta = torch.cat([o.state["weight"][0], o.state["bias"]]).double().numpy()
        gradient = o.gradient()
        for i in range(d):
            row = np.zeros(d * d + d)
            row[i * d : (i + 1) * d], row[d * d + i] = theta, -1.0
            rows.append(row)
        right += [torch.cat([gradient["weight"][0], gradient["bias"]]).double().numpy() / 2]
    solution = np.linalg.lstsq(np.array(rows), np.concatenate(right), rcond=None)[0]
    return solution[: d * d].reshape(d, d), solution[d * d :]


def true_moments(x, y):
    extended = torch.cat([x, torch.ones(len(x), 1)], dim=1).double().numpy()
    return extended.T @ extended, y.double().numpy().T @ extended


@pytest.mark.parametrize(("n", "d"), [(1, 3), (2, 4), (3, 2), (6, 3), (9, 5)])
def test_moments_agree_with_plain_least_squares(n, d):
    x, y = normal(n, d, dtype=torch.float64), normal(n, 1, seed=1, dtype=torch.float64)
    seen = random_visits(x, y, rounds=3 * d)
    second, mixed = true_moments(x, y)
    a, c = oracle_moments(seen)
    assert np.allclose(a, second, atol=1e-8)  # the oracle itself
    assert np.allclose(c, mixed, atol=1e-8)
    found, _ = visits_of(tuple(seen))
    span = find_span(found)
    moments = solve_moments(found, span)
    basis = np.vstack([span.origin, span.directions])
    assert span.rank == min(n, d + 1)
    assert np.allclose(basis.T @ moments.second @ basis, a, atol=1e-8)
    assert np.allclose(moments.mixed @ basis, c, atol=1e-8)
    assert abs(moments.second[0, 0] - n) < 1e-8


def test_two_samples_in_closed_form():
    x, y = np.array([3.0, -1.0]), np.array([[2.0], [5.0]])
    extended = np.column_stack([np.ones(2), x])
    moments = attacks.exact.moments.Moments(
        second=extended.T @ extended, mixed=y.T @ extended, corner_error=0.0
    )
    t, targets = samples_of_two(moments)
    assert np.allclose(t[:, 0], x)  # the larger first
    assert np.allclose(targets, y)


def test_moments_of_no_real_points():
    moments = attacks.exact.moments.Moments(
        second=np.array([[2.0, 2.0], [2.0, 1.9]]), mixed=np.ones((1, 2)), corner_error=0.0
    )
    assert samples_of_two(moments) is None


def test_polishing_the_truth_keeps_it_and_repairs_a_bruise():
    x, y = normal(2, 4, dtype=torch.float64), normal(2, 1, seed=1, dtype=torch.float64)
    found, _ = visits_of(tuple(random_visits(x, y, rounds=4)))
    for bruise in (0.0, 1e-3):
        inputs, targets = polish(found, x.numpy() + bruise, y.numpy() - bruise)
        assert np.allclose(inputs, x, atol=1e-9)
        assert np.allclose(targets, y, atol=1e-9)


@SLOW
@given(d=st.integers(2, 20), seed=st.integers(0, 10_000), rounds=st.integers(4, 8))
def test_the_tutorial_leaks_in_every_dimension(d, seed, rounds):
    x, y = normal(2, d, seed=seed), normal(2, 1, seed=seed + 1)
    found = attacks.reconstruct(visits(x, y, rounds=rounds, seed=seed), client="bob")
    assert max_abs_error(found.inputs, x) < 1e-3
    assert max_abs_error(found.targets, y) < 1e-3
    assert found.certified.all(), found.notes
    assert found.method == "moment inversion"


@SLOW
@given(d=st.integers(2, 20), seed=st.integers(0, 10_000))
def test_double_precision_leaks_all_digits(d, seed):
    x, y = normal(2, d, seed=seed, dtype=torch.float64), normal(2, 1, seed=seed + 1, dtype=torch.float64)
    found = attacks.reconstruct(visits(x, y, rounds=4, seed=seed), client="bob")
    assert max_abs_error(found.inputs, x) < 1e-8
    assert found.certified.all()


@SLOW
@given(d=st.integers(2, 20), seed=st.integers(0, 10_000))
def test_two_visits_are_enough_for_who_knows_the_count(d, seed):
    x, y = normal(2, d, seed=seed, dtype=torch.float64), normal(2, 1, seed=seed + 1, dtype=torch.float64)
    transcript = visits(x, y, rounds=2, seed=seed)
    found = attacks.reconstruct(with_knowledge(transcript.observations("bob"), num_samples=2))
    assert max_abs_error(found.inputs, x) < 1e-5
    guessed = attacks.reconstruct(transcript, client="bob")
    assert max_abs_error(guessed.inputs, x) < 1e-5
    assert not guessed.certified.any()
    assert any("assumed from the rank" in note for note in guessed.notes)


@pytest.mark.parametrize("n", [1, 2])
def test_the_count_is_deduced_from_three_visits(n):
    x, y = normal(n, 6, dtype=torch.float64), normal(n, 1, seed=1, dtype=torch.float64)
    found = attacks.reconstruct(visits(x, y, rounds=3), client="bob")
    assert max_abs_error(found.inputs, x) < 1e-7
    assert any(f"{n} sample{'s' * (n > 1)}, deduced from the visits" in note for note in found.notes)


@pytest.mark.parametrize("loss_fn", [F.mse_loss, half_squared_error, lambda o, t: 3 * squared_error(o, t)])
@pytest.mark.parametrize("outputs", [1, 3])
def test_other_scales_of_the_loss_and_several_outputs(loss_fn, outputs):
    x, y = normal(2, 4, dtype=torch.float64), normal(2, outputs, seed=1, dtype=torch.float64)
    seen = with_knowledge(random_visits(x, y, rounds=4, loss_fn=loss_fn), num_samples=2)
    found = MomentInversion()(seen)
    assert max_abs_error(found.inputs, x) < 1e-7
    assert max_abs_error(found.targets, y) < 1e-7
    assert found.certified.all()


def test_a_mean_loss_hides_the_count():
    x, y = normal(2, 4, dtype=torch.float64), normal(2, 1, seed=1, dtype=torch.float64)
    doubled = random_visits(torch.cat([x, x]), torch.cat([y, y]), rounds=5, loss_fn=F.mse_loss)
    found = MomentInversion()(doubled)
    assert max_abs_error(found.inputs, x) < 1e-7  # the two points, yet nobody can know that there were four
    assert not found.certified.any()
    assert any("a mean loss hides the count" in note for note in found.notes)
    report = attacks.identifiability(doubled)
    assert (report.min_samples, report.max_samples) == (2, None)
    assert "there are at least 2 samples" in str(report)


def test_equal_samples_have_only_the_mean_of_their_targets():
    x, y = normal(1, 4, dtype=torch.float64).repeat(3, 1), normal(3, 1, seed=1, dtype=torch.float64)
    seen = random_visits(x, y, rounds=4)
    found = MomentInversion()(seen)
    assert max_abs_error(found.inputs, x) < 1e-8
    assert torch.allclose(found.targets, y.mean().expand(3, 1))
    assert not found.certified.any()
    assert "3 equal input(s), exactly, and the mean of their targets" in str(attacks.identifiability(seen))


@pytest.mark.parametrize(("n", "d"), [(3, 2), (3, 5), (4, 2), (4, 6)])
def test_more_samples_are_refused_with_what_is_determined(n, d):
    x, y = normal(n, d, dtype=torch.float64), normal(n, 1, seed=1, dtype=torch.float64)
    seen = random_visits(x, y, rounds=d + 3)
    with pytest.raises(NotIdentifiable, match=f"{n} samples (are determined only up to|lie in)") as refusal:
        MomentInversion()(seen)
    second, mixed = true_moments(x, y)
    known = refusal.value.determined
    assert int(known["num_samples"]) == n
    assert np.allclose(known["mean"], x.mean(dim=0), atol=1e-8)
    assert np.allclose(known["second_moments"], second[:-1, :-1], atol=1e-8)
    assert np.allclose(known["mixed_moments"], mixed[:, :-1], atol=1e-8)
    assert np.allclose(known["target_sums"], mixed[:, -1], atol=1e-8)
    extended = np.column_stack([x, np.ones(n)])
    assert np.linalg.matrix_rank(np.vstack([known["span"], extended]), tol=1e-8) == min(n, d + 1)
    report = attacks.identifiability(seen)
    assert (report.min_samples, report.max_samples) == (n, n)
    assert "only up to a rotation" in str(report)


def test_an_unknown_number_of_samples_is_not_called_known():
    x, y = normal(7, 2, dtype=torch.float64), normal(7, 1, seed=1, dtype=torch.float64)
    seen = random_visits(x, y, rounds=6, loss_fn=F.mse_loss)
    with pytest.raises(NotIdentifiable, match="at least 3 samples, and nobody told how many") as refusal:
        MomentInversion()(seen)
    assert "num_samples" not in refusal.value.determined
    assert np.allclose(refusal.value.determined["mean"], x.mean(dim=0), atol=1e-8)
    assert np.allclose(refusal.value.determined["second_moments"], x.T @ x / 7, atol=1e-8)


def test_too_few_visits_for_the_declared_count():
    x, y = normal(3, 5, dtype=torch.float64), normal(3, 1, seed=1, dtype=torch.float64)
    for rounds in (1, 2):
        seen = with_knowledge(random_visits(x, y, rounds=rounds), num_samples=3)
        with pytest.raises(
            NotIdentifiable, match=r"moments of 3 samples yet.*3 visits with different models"
        ):
            MomentInversion()(seen)
        assert "moments of 3 samples yet" in str(attacks.identifiability(seen))


def test_a_declared_count_that_the_visits_contradict():
    x, y = normal(4, 5, dtype=torch.float64), normal(4, 1, seed=1, dtype=torch.float64)
    seen = with_knowledge(random_visits(x, y, rounds=3), num_samples=2)
    with pytest.raises(NotIdentifiable, match="2 samples, as declared, but the visits span 3 dimensions"):
        MomentInversion()(seen)
