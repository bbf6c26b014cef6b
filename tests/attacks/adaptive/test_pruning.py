"""Pruned updates: completion of the first layer, and matching on what arrived."""

from __future__ import annotations

import pytest
import torch

import attacks
import fedpriv
from attacks.adaptive import LeaveOut, PrunedInversion, pruning, see_through
from attacks.adaptive.evidence import Partial, arrived
from attacks.adaptive.rows import Rows, fit_rows
from attacks.matching.dlg import DLG
from fedpriv.defenses import RandomPruning, TopK
from tests.attacks.adaptive.scenes import FEW, SEEDS, counted, digits, mlp, psnr, seen_of
from tests.attacks.scenes import normal, seeded


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    "defense",
    [TopK(kept_fraction=0.1), TopK(kept_fraction=0.02), RandomPruning(kept_fraction=0.1)],
    ids=["top 10 %", "top 2 %", "random 10 %"],
)
def test_a_digit_comes_back_whole_from_a_tenth_and_less(defense, seed):
    x, y = digits(1, seed=seed)
    seen = seen_of(mlp(128, 128, seed=seed), x, y, [defense], seed=seed)
    assert psnr(attacks.FirstLayerInversion(), seen, x) < 20
    found = PrunedInversion()(seen)
    assert fedpriv.lab.score(found, x, y).recovered(psnr=100.0) == 1.0
    assert torch.equal(found.targets, y)
    # The undefended replay does not agree with what arrived; on what is intact there is nothing left.
    assert found.residual > 0.05
    assert not found.certified.any()
    graded = PrunedInversion()(see_through(tuple(seen)))
    assert graded.residual < 1e-6
    assert graded.certified.all()


@pytest.mark.parametrize("seed", FEW)
def test_convolutions_hide_no_better(seed):
    x, y = digits(1, seed=seed, dtype=torch.float64)
    model = fedpriv.victims.lenet_dlg((1, 8, 8), generator=seeded(seed)).double()
    seen = counted(seen_of(model, x, y, [TopK(kept_fraction=0.1)], seed=seed), 1)
    assert psnr(DLG(starts=1, steps=50), seen, x) < 20
    found = LeaveOut()(seen)
    assert fedpriv.lab.score(found, x, y).recovered(psnr=60.0) == 1.0
    assert torch.equal(found.targets, y)


def test_rounds_add_up_where_one_shows_next_to_nothing():
    """Half a percent at random in each of sixteen rounds: 48 numbers a round for 64 pixels."""
    x, y = digits(1, seed=44)
    defense = RandomPruning(kept_fraction=0.005, error_feedback=False)
    seen = seen_of(mlp(128, seed=44), x, y, [defense], seed=44, rounds=16, lr=1e-3)
    one, all_rounds = (psnr(PrunedInversion(), rounds, x) for rounds in (seen[:1], seen))
    assert all_rounds > 100
    assert one < 20


def test_error_feedback_needs_the_first_round():
    x, y = digits(1, seed=44)
    seen = seen_of(mlp(128, seed=44), x, y, [TopK()], seed=44, rounds=3)
    with pytest.raises(attacks.NotIdentifiable, match="only the first round is a pruned gradient"):
        PrunedInversion()(seen[1:])


def test_coordinates_that_are_a_guess_forbid_the_certificate():
    x, y = digits(1, seed=44)
    defense = RandomPruning(kept_fraction=0.005, error_feedback=False)
    found = PrunedInversion()(see_through(tuple(seen_of(mlp(128, seed=44), x, y, [defense], seed=44))))
    assert any("a guess" in note for note in found.notes)
    assert not found.certified.any()


def test_a_batch_is_refused():
    x, y = digits(4, seed=40)
    seen = seen_of(mlp(128, seed=40), x, y, [TopK()], seed=40)
    with pytest.raises(attacks.NotIdentifiable, match="mixes several samples"):
        PrunedInversion()(seen)


def test_partial_model_has_the_gradient_at_its_coordinates():
    torch.random.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(5, 4), torch.nn.Tanh(), torch.nn.Linear(4, 3))
    masks = {n: torch.rand(p.shape, generator=seeded(1)) < 0.5 for n, p in model.named_parameters()}
    partial, x = Partial(model, masks), normal(2, 5)
    torch.testing.assert_close(partial(x), model(x))
    whole = torch.autograd.grad(model(x).square().sum(), model.parameters())
    parts = torch.autograd.grad(partial(x).square().sum(), list(partial.kept))
    for name, part in zip(partial.names, parts, strict=True):
        full = dict(zip(masks, whole, strict=True))[name]
        torch.testing.assert_close(part, full[masks[name]])


def test_what_is_seen_through_can_be_put_together_again():
    x, y = digits(1, seed=40)
    seen = seen_of(mlp(32, seed=40), x, y, [TopK(error_feedback=False)], seed=40)[0]
    again, masks = arrived(see_through((seen,))[0])
    for name, gradient in seen.gradient().items():
        assert torch.equal(again.gradient()[name], gradient)
        assert torch.equal(masks[name], gradient != 0)
    assert see_through(see_through((seen,)))[0].model.names == see_through((seen,))[0].model.names


@pytest.mark.parametrize("seed", range(40, 50))
def test_rank_one_completion_is_exact_wherever_entries_hang_together(seed):
    x, deltas = normal(30, seed=seed, dtype=torch.float64), normal(40, seed=seed + 1, dtype=torch.float64)
    whole = torch.outer(deltas, torch.cat([x, torch.ones(1, dtype=torch.float64)]))
    mask = torch.rand(whole.shape, generator=seeded(seed)) < 0.15
    fit = fit_rows(Rows(whole * mask, mask, (30,)))
    torch.testing.assert_close(fit.inputs[fit.known], x[fit.known], rtol=1e-8, atol=1e-8)
    assert int(fit.known.sum()) >= 28
    assert fit.misfit < 1e-10


def test_the_search_for_a_length_ends_with_the_time(monkeypatch):
    """No bias of the first layer arrived, and time is up: one length is tried, and the note says so."""
    x, y = digits(1, seed=40)
    model = mlp(512, 64, seed=40)
    seen = seen_of(model, x, y, [RandomPruning(kept_fraction=0.001)], seed=40)
    gradient = dict(seen[0].gradient())
    gradient["1.bias"] = torch.zeros_like(gradient["1.bias"])
    bare = fedpriv.Observation(model, gradient, seen[0].loss_fn, seen[0].knowledge, state=seen[0].state)
    tries, recover = [], pruning.recover_targets

    def counted_recover(observation, inputs):
        tries.append(inputs)
        return recover(observation, inputs)

    monkeypatch.setattr(pruning, "recover_targets", counted_recover)
    claim = PrunedInversion().run((bare,), generator=seeded(0), deadline=0.0)
    assert len(tries) <= 2
    assert "time ended" in claim.notes[0]
    tries.clear()
    claim = PrunedInversion().run((bare,), generator=seeded(0), deadline=float("inf"))
    assert len(tries) > 60
    assert "follows from the other layers" in claim.notes[0]
