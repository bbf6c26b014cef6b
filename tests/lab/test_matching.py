"""Matching against brute force over all pairings."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedpriv.lab import match, psnr
from fedpriv.lab.matching import pairwise_mse


def total_psnr(pairs, estimates, truth):
    """Mean PSNR of a pairing, written out: pairs of (true index, estimate index)."""
    return sum(float(psnr(estimates[[j]], truth[[i]], data_range=1.0)) for i, j in pairs)


def best_by_brute_force(estimates, truth):
    n, m = len(truth), len(estimates)
    small = range(min(n, m))
    if n <= m:
        candidates = ([(i, p[i]) for i in small] for p in itertools.permutations(range(m), n))
    else:
        candidates = ([(p[j], j) for j in small] for p in itertools.permutations(range(n), m))
    return max(total_psnr(pairs, estimates, truth) for pairs in candidates)


@settings(max_examples=40, deadline=None)
@given(n=st.integers(1, 4), m=st.integers(1, 4), seed=st.integers(0, 2**31 - 1), wild=st.booleans())
def test_no_pairing_has_a_higher_mean_psnr(n, m, seed, wild):
    generator = torch.Generator().manual_seed(seed)
    truth = torch.rand(n, 3, generator=generator)
    estimates = torch.rand(m, 3, generator=generator) * (20.0 if wild else 1.0)
    estimates[: min(n, m) - 1] = truth[: min(n, m) - 1]  # some of them exact
    assignment = match(estimates, truth).tolist()
    pairs = [(i, j) for i, j in enumerate(assignment) if j >= 0]
    assert len(pairs) == min(n, m) == len({j for _, j in pairs})
    assert total_psnr(pairs, estimates, truth) == pytest.approx(best_by_brute_force(estimates, truth))


@settings(max_examples=20, deadline=None)
@given(st.permutations(range(7)))
def test_a_shuffled_exact_reconstruction_is_put_in_order(order):
    truth = torch.rand(7, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    assignment = match(truth[order], truth)
    assert torch.equal(truth[order][assignment], truth)


def test_an_exact_pair_is_kept_when_plain_squared_errors_would_part_it():
    # Squared errors: (0-0)² + (-10-1)² = 121 in order, (-10-0)² + (0-1)² = 101 crossed.
    truth, estimates = torch.tensor([[0.0], [1.0]]), torch.tensor([[0.0], [-10.0]])
    assert match(estimates, truth).tolist() == [0, 1]


def test_estimates_with_nan_or_infinity_are_paired_with_nothing():
    truth = torch.tensor([[0.0, 0.0], [1.0, 1.0], [2.0, 2.0]])
    estimates = torch.tensor([[math.nan, 0.0], [2.0, 2.0], [math.inf, 1.0]])
    assert match(estimates, truth).tolist() == [-1, -1, 1]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_only_useless_estimates_match_nothing(value):
    assert match(torch.full((2, 3), value), torch.zeros(3, 3)).tolist() == [-1, -1, -1]


def test_an_empty_reconstruction_matches_nothing():
    assert match(torch.empty(0, 1, 2, 2), torch.zeros(2, 1, 2, 2)).tolist() == [-1, -1]


def test_an_error_that_overflows_is_still_a_pair():
    assert match(
        torch.tensor([[1e300], [0.0]], dtype=torch.float64), torch.tensor([[0.0], [1.0]])
    ).tolist() == [1, 0]


def test_samples_may_be_single_numbers():
    assert match(torch.tensor([0.9, 0.1]), torch.tensor([0.0, 1.0])).tolist() == [1, 0]


def test_pairwise_errors_equal_a_loop_across_chunks():
    generator = torch.Generator().manual_seed(0)
    estimates = torch.rand(300, 7000, generator=generator, dtype=torch.float64)  # two true samples to a chunk
    truth = torch.rand(3, 7000, generator=generator, dtype=torch.float64)
    loop = torch.stack([((estimates - row) ** 2).mean(dim=1) for row in truth])
    torch.testing.assert_close(pairwise_mse(estimates, truth), loop)


@pytest.mark.parametrize(
    ("estimates", "truth", "words"),
    [
        (
            torch.zeros(2, 4),
            torch.zeros(2, 2, 2),
            r"expected reconstructed samples of shape \(2, 2\).*got \(4,\)",
        ),
        (torch.zeros(2, 1), torch.full((2, 1), math.nan), "expected finite true samples"),
        (torch.zeros(0, 1), torch.zeros(0, 1), "expected at least one true sample"),
        (torch.tensor(1.0), torch.tensor(1.0), "expected at least one true sample"),
    ],
)
def test_bad_input_is_named(estimates, truth, words):
    with pytest.raises(ValueError, match=words):
        match(estimates, truth)
