"""Scores: exact is exact in any order, less is less, and NaN is never a success."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch

from fedpriv.lab import PSNR_CAP, score


@pytest.fixture
def truth():
    return torch.rand(5, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def claim(inputs, targets=None):
    """What score reads of a Reconstruction."""
    return SimpleNamespace(inputs=inputs, targets=targets)


def test_an_exact_reconstruction_in_another_order_is_recovered_whole(truth):
    order, labels = torch.tensor([3, 0, 4, 2, 1]), torch.tensor([7, 1, 1, 0, 9])
    result = score(claim(truth[order], labels[order]), truth, labels)
    assert result.recovered(psnr=PSNR_CAP) == 1.0
    assert result.psnr.tolist() == [PSNR_CAP] * 5
    assert result.ssim.tolist() == pytest.approx([1.0] * 5)
    assert result.mse.tolist() == result.max_abs_error.tolist() == [0.0] * 5
    assert result.target_correct.all()
    assert torch.equal(order[result.assignment], torch.arange(5))
    assert result.baseline.recovered() == 0.0


def test_the_score_goes_down_with_noise(truth):
    noise = torch.randn(truth.shape, generator=torch.Generator().manual_seed(1))
    fractions = [score(truth + scale * noise, truth).recovered(psnr=40.0) for scale in (1e-3, 1e-1)]
    assert fractions == [1.0, 0.0]


def test_missing_samples_count_as_not_recovered(truth):
    result = score(truth[:2], truth, torch.arange(5))
    assert result.recovered() == 0.4
    assert result.assignment.tolist() == [0, 1, -1, -1, -1]
    assert result.psnr[2:].tolist() == [-math.inf] * 3
    assert result.mse[2:].tolist() == result.max_abs_error[2:].tolist() == [math.inf] * 3
    assert result.ssim[2:].isnan().all()
    assert not result.target_correct.any()  # a bare tensor claims no targets


def test_a_sample_with_nan_is_never_recovered(truth):
    estimate = truth.clone()
    estimate[3, 0, 0, 0] = math.nan
    result = score(estimate, truth)
    assert result.recovered(psnr=-1e9) == 0.8
    assert score(torch.full_like(truth, math.nan), truth).recovered(psnr=-1e9) == 0.0


def test_invented_samples_are_counted_and_do_not_help(truth):
    result = score(torch.cat([torch.rand(9, 1, 8, 8), truth]), truth)
    assert result.num_claimed == 14
    assert result.recovered(psnr=PSNR_CAP) == 1.0


def test_wrong_labels_are_wrong(truth):
    labels = torch.arange(5)
    result = score(claim(truth, torch.tensor([0, 1, 2, 4, 3])), truth, labels)
    assert result.target_correct.tolist() == [True, True, True, False, False]


@pytest.mark.parametrize("shape", [(2,), (2, 1)])
def test_real_targets_have_a_tolerance(shape):
    inputs, targets = torch.tensor([[0.0], [1.0]]), torch.tensor([0.0, 1.0])
    claimed = claim(inputs, torch.tensor([1e-5, 1.01]).reshape(shape))
    assert score(claimed, inputs, targets).target_correct.tolist() == [True, False]
    assert score(claimed, inputs, targets, target_tolerance=0.1).target_correct.all()


def test_the_default_guess_is_the_mean_of_the_truth():
    truth = torch.tensor([[0.0, 0.0], [1.0, 1.0]])
    assert score(truth, truth).baseline.mse.tolist() == [0.25, 0.25]


def test_a_guess_of_public_samples_is_compared_with_the_nearest():
    truth = torch.tensor([[0.0, 0.0], [1.0, 1.0], [0.9, 0.9]])
    public = torch.tensor([[1.0, 1.0], [0.5, 0.5]])
    baseline = score(truth, truth, guess=public).baseline
    assert baseline.assignment.tolist() == [1, 0, 0]
    assert baseline.recovered(psnr=PSNR_CAP) == pytest.approx(1 / 3)
    assert score(truth, truth, guess=public[0]).baseline.mse.tolist() == pytest.approx([1.0, 0.0, 0.01])


@pytest.mark.parametrize(
    ("values", "expected"), [([0.2, 0.4], 1.0), ([0.0, 1.0], 1.0), ([-1.0, 3.0], 4.0), ([0.0, 255.0], 255.0)]
)
def test_the_default_range_is_stated(values, expected):
    truth = torch.tensor(values)[:, None]
    assert score(truth, truth).data_range == expected
    assert score(truth, truth, data_range=9.0).data_range == 9.0


def test_the_table_shows_guess_and_summary(truth):
    estimate = truth.clone()
    estimate[1] = math.nan
    lines = str(score(estimate, truth)).splitlines()
    assert lines[0] == "5 true samples, 5 claimed, data range 1"
    assert len(lines) == 8
    assert lines[3].split()[:2] == ["1", "none"]
    assert lines[-1] == "recovered at 40 dB: 4 of 5 (guess: 0 of 5)"
    long = torch.rand(40, 2)
    assert "... and 28 more" in str(score(long, long))


def test_nothing_that_was_passed_in_changes(truth):
    estimate, before = truth.flip(0), truth.clone()
    score(estimate, truth, guess=truth[:2])
    assert torch.equal(truth, before)
    assert torch.equal(estimate, before.flip(0))


def test_gradients_and_half_precision_are_welcome(truth):
    assert score(truth.half().requires_grad_(), truth.half()).recovered(psnr=PSNR_CAP) == 1.0


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (
            lambda: score(torch.zeros(2, 64), torch.zeros(2, 1, 8, 8)),
            r"shape \(1, 8, 8\), as the truth has, got \(64,\)",
        ),
        (lambda: score(torch.zeros(1, 1), torch.full((1, 1), math.nan)), "expected finite true samples"),
        (lambda: score(torch.zeros(1, 1), torch.zeros(0, 1)), "expected finite true samples"),
        (
            lambda: score(torch.zeros(1, 1), torch.zeros(1, 1), torch.zeros(2)),
            "one target for each of 1 samples",
        ),
        (
            lambda: score(torch.zeros(1, 1), torch.zeros(1, 1), guess=torch.zeros(3)),
            "guess must hold finite samples",
        ),
        (
            lambda: score(torch.zeros(1, 1), torch.full((1, 1), 5.0)),
            r"every true value is 5.*pass data_range",
        ),
        (lambda: score(torch.zeros(1, 1), torch.zeros(1, 1)).recovered(psnr=121.0), "at most 120 dB"),
        (lambda: score(torch.zeros(1, 1), torch.zeros(1, 1)).recovered(psnr=math.nan), "at most 120 dB"),
        (
            lambda: score(claim(torch.zeros(1, 1), torch.zeros(1, 3)), torch.zeros(1, 1), torch.zeros(1)),
            "expected reconstructed targets of shape",
        ),
    ],
)
def test_bad_input_is_named(call, words):
    with pytest.raises(ValueError, match=words):
        call()
