"""Checks of the exercise `text_and_tables`."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture
def sentence(generator):
    table = torch.randn(200, 24, generator=generator, dtype=torch.float64)
    tokens = torch.randperm(200, generator=generator)[:7]
    signals = torch.randn(32, 7, generator=generator, dtype=torch.float64)
    return table, sorted(tokens.tolist()), signals


def test_tokens_used(answer, sentence):
    _, tokens, signals = sentence
    gradient = torch.zeros(200, 32, dtype=torch.float64)
    gradient[tokens] = signals.T
    found = list(answer.tokens_used(gradient))
    assert len(found) == len(set(found)), "a token is listed once, not once for each coordinate"
    positive = [k for k in tokens if float(gradient[k].sum()) > 0]
    assert found != positive or positive == tokens, (
        "a row whose entries sum to less than zero is used as well"
    )
    assert found == tokens, f"expected {tokens}, got {found}: rows of used tokens are not zero"


def test_tokens_in_span(answer, sentence):
    table, tokens, signals = sentence
    gradient = signals @ table[tokens]
    found = list(answer.tokens_in_span(table, gradient, len(tokens)))
    assert len(found) < 200, "every token passes: use the first `length` right singular vectors only"
    assert found, "no token passes: project on ROWS of Vh; the true ones lose less than 1e-6 of their length"
    assert found == tokens, f"expected {tokens}, got {found}"


def test_guess_accuracy(answer, generator):
    table = torch.randint(0, 3, (40, 5), generator=generator)
    found = answer.guess_accuracy(table)
    expected = sum(int(torch.bincount(column).max()) for column in table.T) / table.numel()
    overall = float((table == table.flatten().mode().values).double().mean())
    assert found != overall or overall == expected, "each column has its own most frequent value"
    assert 0 < found <= 1, f"a share is between 0 and 1, got {found}"
    assert abs(found - expected) < 1e-9, f"expected {expected:.4f}, got {found:.4f}"
