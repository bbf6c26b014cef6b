"""Checks of the exercise `secure_aggregation`."""

from __future__ import annotations

import itertools

import pytest
import torch

Q = 2_147_483_647  # a prime
PEOPLE = (1, 2, 3, 4, 5)


@pytest.fixture
def integer(generator):
    return lambda high=Q: int(torch.randint(high, (1,), generator=generator))


@pytest.fixture
def masks(integer):
    table = {pair: integer() for pair in itertools.combinations(PEOPLE, 2)}
    return {k: {j: table[min(j, k), max(j, k)] for j in PEOPLE if j != k} for k in PEOPLE}


def sent(values, masks):
    return {k: (values[k] + sum(m if k < j else -m for j, m in masks[k].items())) % Q for k in PEOPLE}


def test_masked(answer, integer, masks):
    values = {k: integer(1000) for k in PEOPLE}
    found = {k: answer.masked(values[k], k, masks[k], Q) for k in PEOPLE}
    assert all(0 <= v < Q for v in found.values()), "a message is outside 0 to q - 1: take the rest modulo q"
    assert found != values, "the messages are the secrets themselves: add the masks"
    all_added = {k: (values[k] + sum(masks[k].values())) % Q for k in PEOPLE}
    assert found != all_added, "everybody adds: nothing cancels; the larger number of a pair subtracts"
    assert sum(found.values()) % Q == sum(values.values()), "the masks do not cancel in the sum"
    assert found == sent(values, masks), "the masks cancel, but the smaller number of a pair must add"


def test_recover(answer, integer):
    secret, slope, bend = integer(), integer(), integer()
    shares = {k: (secret + slope * k + bend * k * k) % Q for k in (2, 3, 5)}
    found = answer.recover(shares, Q)
    assert isinstance(found, int), (
        f"expected an integer, got {type(found).__name__}: divide with pow(x, -1, q)"
    )
    assert found != sum(shares.values()) % Q, (
        "this is the sum of the shares: weigh them by Lagrange's coefficients"
    )
    assert found == secret, (
        f"expected {secret}, got {found}: the coefficient of i is the product of j / (j - i), j ≠ i"
    )


def test_unmask(answer, integer, masks):
    values = {k: integer(1000) for k in PEOPLE}
    messages = sent(values, masks)
    lost = PEOPLE[1 + integer(3)]
    del messages[lost]
    found = answer.unmask(messages, lost, masks[lost], Q)
    expected = sum(values[k] for k in messages)
    assert found != sum(messages.values()) % Q, (
        f"the masks shared with client {lost} are still in: take them out"
    )
    signs = (sum(messages.values()) - sum(masks[lost].values())) % Q
    assert found != signs, f"clients below {lost} added their mask, clients above {lost} subtracted it"
    assert found == expected, f"expected the survivors' sum {expected}, got {found}"
