"""Checks of the exercise `secure_aggregation`."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from expecting import integer, what

Q = 2_147_483_647  # a prime
PEOPLE = (1, 2, 3, 4, 5)


@pytest.fixture
def number(generator):
    return lambda high=Q: int(torch.randint(high, (1,), generator=generator))


@pytest.fixture
def masks(number):
    table = {pair: number() for pair in itertools.combinations(PEOPLE, 2)}
    return {k: {j: table[min(j, k), max(j, k)] for j in PEOPLE if j != k} for k in PEOPLE}


def sent(values, masks):
    return {k: (values[k] + sum(m if k < j else -m for j, m in masks[k].items())) % Q for k in PEOPLE}


def test_masked(answer, number, masks):
    values = {k: number(1000) for k in PEOPLE}
    found = {k: integer(answer.masked(values[k], k, dict(masks[k]), Q)) for k in PEOPLE}
    assert all(0 <= v < Q for v in found.values()), "a message is outside 0 to q - 1: take the rest modulo q"
    assert found != values, "the messages are the secrets themselves: add the masks"
    for sign in (1, -1):
        same = {k: (values[k] + sign * sum(masks[k].values())) % Q for k in PEOPLE}
        assert found != same, (
            f"everybody {'adds' if sign > 0 else 'subtracts'}: nothing cancels; the smaller "
            "number of a pair adds, "
            "the larger subtracts"
        )
    only = {k: sent(dict.fromkeys(PEOPLE, 0), masks)[k] for k in PEOPLE}
    assert found != only, "the masks alone: the value itself is missing"
    assert sum(found.values()) % Q == sum(values.values()), (
        "the masks do not cancel in the sum: of each pair one adds the mask, and the other subtracts it"
    )
    assert found == sent(values, masks), "the masks cancel, but the smaller number of a pair must add"


def lagrange(shares, divide):
    total = 0
    for i, share in shares.items():
        others = [j for j in shares if j != i]
        total += divide(share * math.prod(others), math.prod(j - i for j in others))
    return total


def test_recover(answer, number):
    for clients in ((2, 3, 5), (4, 1), (1, 2, 4, 5)):
        polynomial = [number() for _ in clients]
        secret = polynomial[0]
        shares = {k: sum(c * k**power for power, c in enumerate(polynomial)) % Q for k in clients}
        found = answer.recover(dict(shares), Q)
        assert isinstance(found, int), f"expected an integer, got {what(found)}" + (
            ": divide with pow(x, -1, q)" if isinstance(found, float) else ""
        )
        assert found != sum(shares.values()) % Q, (
            "this is the sum of the shares: weigh them by Lagrange's coefficients"
        )
        whole = lagrange(shares, lambda a, b: a // b)
        assert found % Q != whole % Q or whole % Q == secret, (
            "// is not division modulo q: multiply by pow(x, -1, q)"
        )
        assert found == secret or found % Q != secret, "take the rest modulo q at the end"
        assert found != -secret % Q, (
            "the sign is wrong with this number of shares: j / (j - i), not j / (i - j)"
        )
        assert found == secret, (
            f"expected {secret} from the shares of clients {clients}, got {found}: the "
            "coefficient of i is the "
            "product of j / (j - i), j ≠ i, modulo q"
        )


def test_unmask(answer, number, masks):
    values = {k: number(1000) for k in PEOPLE}
    for lost in (PEOPLE[1 + number(3)], 1, 5):
        messages = sent(values, masks)
        del messages[lost]
        found = integer(answer.unmask(dict(messages), lost, dict(masks[lost]), Q))
        received, right = sum(messages.values()), sum(values[k] for k in messages)
        added = sum(masks[lost][k] if k < lost else -masks[lost][k] for k in messages)
        assert found % Q != received % Q, f"the masks shared with client {lost} are still in: take them out"
        assert found % Q != (received + added) % Q, (
            "the masks are in twice now: subtract what was added, add what was subtracted"
        )
        for sign in (1, -1):
            if lost in PEOPLE[1:-1]:
                assert found % Q != (received + sign * sum(masks[lost].values())) % Q, (
                    f"clients below {lost} added their mask, clients above {lost} subtracted it"
                )
        assert found == right or found % Q != right, "outside 0 to q - 1: take the rest modulo q"
        assert found == right, (
            f"expected the survivors' sum {right}, got {found}: client {lost} is lost; clients "
            "with smaller numbers "
            "added their mask, the others subtracted it"
        )
