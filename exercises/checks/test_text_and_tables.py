"""Checks of the exercise `text_and_tables`."""

from __future__ import annotations

import pytest
import torch
from expecting import integers, none_of, number, show


@pytest.fixture
def sentence(generator):
    table = torch.randn(200, 24, generator=generator, dtype=torch.float64)
    tokens = torch.randperm(200, generator=generator)[:7]
    signals = torch.randn(32, 7, generator=generator, dtype=torch.float64)
    return table, sorted(tokens.tolist()), signals


def compare(found, tokens, missing, extra):
    """Name what is missing and what is too much."""
    assert len(found) == len(set(found)), "a token is listed once, not once for each coordinate"
    assert found == tokens or sorted(found) != tokens, (
        "the right tokens, in another order: ascending, sorted()"
    )
    absent, more = sorted(set(tokens) - set(found)), sorted(set(found) - set(tokens))
    assert not absent, f"token {absent[0]} is missing: {missing}"
    assert not more, f"token {more[0]} does not occur: {extra}"


def test_tokens_used(answer, sentence):
    _, tokens, signals = sentence
    gradient = torch.zeros(200, 32, dtype=torch.float64)
    gradient[tokens] = signals.T
    gradient[tokens[2]] = 0.0
    gradient[tokens[2], 4:6] = torch.tensor([1.0, -1.0], dtype=torch.float64)
    found = integers(answer.tokens_used(gradient))
    compare(
        found,
        tokens,
        "its row is not zero, though its first entry, its sum or its largest entry may be zero or less",
        "its row is zero",
    )


def test_tokens_in_span(answer, sentence):
    table, tokens, signals = sentence
    gradient = signals @ table[tokens]
    found = integers(answer.tokens_in_span(table, gradient, len(tokens)))
    assert len(found) < 200, "every token passes: use the first `length` right singular vectors only"
    assert found, "no token passes: project on ROWS of Vh; the true ones lose less than 1e-6 of their length"
    compare(found, tokens, "it loses less than 1e-6 of its length", "it loses more than 1e-6 of its length")


def test_guess_accuracy(answer, generator):
    table = torch.randint(0, 3, (40, 5), generator=generator)
    table[:15] = torch.arange(5) % 3  # columns have different favorites
    found = number(answer.guess_accuracy(table))
    right = sum(int(torch.bincount(column).max()) for column in table.T) / table.numel()
    rows = sum(int(torch.bincount(row).max()) for row in table) / table.numel()
    mistakes = [
        (
            (table == table.flatten().mode().values).double().mean(),
            "each column has its own most frequent value",
        ),
        (rows, "this guesses by rows: for each COLUMN its most frequent value"),
        (100 * right, "a share of 1, not percent"),
        (right * table.numel(), "this is how many cells, not their share"),
        (right * 5, "divide by the number of all cells, not of rows"),
        (1 - right, "this is the share of the cells that it gets wrong"),
        (
            (table == table.double().mean(dim=0).round()).double().mean(),
            "the most frequent value, not the mean",
        ),
        ((table == table.median(dim=0).values).double().mean(), "the most frequent value, not the median"),
    ]
    none_of(found, mistakes, right)
    assert abs(found - right) < 1e-6, (
        f"expected {show(right)}, got {show(found)}: how many cells equal their column's most "
        "frequent value, "
        "divided by the number of cells"
    )
