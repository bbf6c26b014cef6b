"""The front door does not search where an answer already explains the evidence to rounding."""

from __future__ import annotations

import pytest
import torch

import attacks
from attacks import front
from tests.attacks.scenes import normal, observe

ASKED: list[str] = []


def answering(name, *, residual, searches):
    """An attack whose answer has no certificate, and the given residual."""

    class Answering:
        def __call__(self, observations, *, generator, time_budget):  # noqa: ARG002
            ASKED.append(name)
            samples = torch.zeros(1, 4)
            proof = torch.tensor([False])
            return attacks.Reconstruction(
                inputs=samples, targets=None, method=name, citation="", residual=residual, certified=proof
            )

    Answering.searches, Answering.name = searches, name
    return Answering


@pytest.mark.parametrize(
    ("residual", "asked"),
    [(1e-7, ["exact", "another exact"]), (1e-2, ["exact", "search", "another exact"])],
)
def test_a_search_is_only_asked_where_something_is_left(residual, asked, monkeypatch):
    ASKED.clear()
    tried = (
        answering("exact", residual=residual, searches=False),
        answering("search", residual=1.0, searches=True),
        answering("another exact", residual=1.0, searches=False),
    )
    monkeypatch.setattr(front, "ATTACKS", tried)
    x, y = normal(1, 4), torch.tensor([1])
    seen = observe(torch.nn.Linear(4, 3), torch.nn.functional.cross_entropy, x, y)
    assert attacks.reconstruct(seen).method == "exact"
    assert asked == ASKED
