"""iDLG and the recovery of targets."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fedpriv
from attacks.labels import idlg, recover_targets
from fedpriv import Observation
from fedpriv.losses import squared_error
from tests.attacks.scenes import normal, observe, seeded


@pytest.mark.parametrize("label", range(5))
@pytest.mark.parametrize("bias", [True, False])
def test_idlg_reads_every_label(label, bias):
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 5, bias=bias))
    assert idlg(observe(model, F.cross_entropy, normal(1, 4), torch.tensor([label]))).tolist() == [label]


def test_idlg_with_two_classes_needs_a_bias():
    y = torch.tensor([1])
    with_bias = observe(nn.Linear(4, 2), F.cross_entropy, normal(1, 4), y)
    assert idlg(with_bias).tolist() == [1]
    with pytest.raises(ValueError, match="two opposite rows do not tell which"):
        idlg(observe(nn.Linear(4, 2, bias=False), F.cross_entropy, normal(1, 4), y))


def test_idlg_says_why_it_cannot():
    model = nn.Linear(4, 3)
    with pytest.raises(ValueError, match=r"exactly one output with a negative gradient .*, found 2"):
        idlg(observe(model, F.cross_entropy, normal(2, 4), torch.tensor([0, 1])))
    with pytest.raises(ValueError, match="the model has none"):
        idlg(observe(nn.Conv1d(2, 3, 2), squared_error, normal(1, 2, 2), normal(1, 3, 1)))
    frozen = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 3).requires_grad_(False))
    with pytest.raises(ValueError, match="that layer is frozen"):
        idlg(observe(frozen, F.cross_entropy, normal(1, 4), torch.tensor([0])))


@pytest.mark.parametrize("loss_fn", [squared_error, F.mse_loss, F.smooth_l1_loss])
def test_real_targets_by_least_squares(loss_fn):
    model = fedpriv.models.mlp([4, 8, 3], activation=nn.Tanh, generator=seeded(1)).double()
    x, y = normal(1, 4, dtype=torch.float64), 0.3 * normal(1, 3, seed=1, dtype=torch.float64)
    targets, notes = recover_targets(observe(model, loss_fn, x, y), x)
    assert torch.allclose(targets, y, atol=1e-8)
    assert notes == ()


def test_targets_of_probabilities():
    model = fedpriv.models.mlp([4, 8, 2], activation=nn.Tanh, generator=seeded(1)).double()
    x, y = normal(1, 4, dtype=torch.float64), torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    targets, _ = recover_targets(observe(model, F.binary_cross_entropy_with_logits, x, y), x)
    assert torch.allclose(targets, y, atol=1e-8)


def test_a_loss_that_takes_neither_kind():
    def strange(_outputs, _targets):
        raise TypeError("targets must be a sentence")

    gradient = [torch.ones(3, 4), torch.ones(3)]
    targets, notes = recover_targets(Observation(nn.Linear(4, 3), gradient, strange), normal(1, 4))
    assert targets is None
    assert "no targets were recovered" in notes[0]


def test_a_model_that_fails_on_the_inputs():
    gradient = [torch.ones(3, 4), torch.ones(3)]
    targets, notes = recover_targets(Observation(nn.Linear(4, 3), gradient, F.mse_loss), normal(1, 5))
    assert targets is None
    assert "the model fails on the inputs" in notes[0]
