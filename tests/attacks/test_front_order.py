"""The front door does not search where an answer already explains the evidence to rounding."""

from __future__ import annotations

import pytest
import torch

import attacks
import fedpriv
from attacks import NotIdentifiable, front
from attacks.refusals import Refusal, why
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


def two_layers(seed):
    torch.manual_seed(seed)
    return torch.nn.Sequential(torch.nn.Linear(20, 16), torch.nn.ReLU(), torch.nn.Linear(16, 3))


@pytest.mark.parametrize("seed", range(4))
def test_with_other_weights_the_division_that_needs_none_stands(seed):
    """x = dW / db whatever the model's values are; searches explain the update less badly, and are wrong."""
    x, y = normal(1, 20, seed=seed), torch.tensor([seed % 3])
    true, other = two_layers(seed), two_layers(100 + seed)
    loss = torch.nn.functional.cross_entropy
    gradient = torch.autograd.grad(loss(true(x), y), list(true.parameters()))
    seen = fedpriv.Observation(other, gradient, loss)
    found = attacks.reconstruct(seen, time_budget=5.0)
    assert torch.allclose(found.inputs.float(), x, atol=1e-5)
    assert not found.certified.any()
    assert "need no weights" in found.notes[0]
    assert found.residual > attacks.IDLG()(seen, time_budget=5.0).residual


def test_a_replay_that_comes_near_beats_the_division(monkeypatch):
    division = answering(front.FirstLayerInversion.name, residual=0.9, searches=False)
    seen = observe(torch.nn.Linear(4, 3), torch.nn.functional.cross_entropy, normal(1, 4), torch.tensor([1]))
    for residual, method in ((0.05, "search"), (0.5, front.FirstLayerInversion.name)):
        search = answering("search", residual=residual, searches=True)
        monkeypatch.setattr(front, "ATTACKS", (division, search))
        assert attacks.reconstruct(seen).method == method


class Plain:
    searches, name = False, "plain"


class Search:
    searches, name = True, "search"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([(Plain, "plain does not apply: a"), (Search, "nothing was found")], "nothing was found. 1 other"),
        ([(Plain, "not found"), (Search, "half of it", {"mean": torch.ones(1)})], "half of it; not found"),
        ([(Plain, "plain does not apply: a"), (Search, "search does not apply: b")], "a; b. No attack app"),
        ([(Plain, "plain does not apply: a"), (Search, "search does not apply: a")], "a. No attack applies"),
    ],
)
def test_the_reason_that_says_most_comes_first(given, said):
    refusals = [Refusal.of(kind(), NotIdentifiable(*words)) for kind, *words in given]
    assert why(refusals, [], 60.0).startswith(said)
    assert "; no time left of 60 s for x, y" in f"; {why(refusals[:1], ['x', 'y'], 60.0)}"
