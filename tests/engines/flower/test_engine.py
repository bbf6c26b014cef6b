"""fedpriv's trainer over Flower: the contract of all engines, and Flower's mods around the owners."""

import numpy as np
import pytest
import torch
from flwr.clientapp.mod import LocalDpMod

from fedpriv.defenses import Clip
from fedpriv.engines.flower import FlowerEngine, defense_mod
from tests.engines.contract import CHECKS, train


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_contract(check):
    check(FlowerEngine)


@pytest.mark.parametrize(
    "mod", [defense_mod(Clip(clip_norm=0.01)), LocalDpMod(0.01, 0.0, 1.0, 1e-5)], ids=["ours", "Flower's"]
)
def test_mods_act_on_what_crosses_the_wire(mod):
    with FlowerEngine(mods=[mod]) as engine:
        run = train(engine, rounds=1, schedule="fedavg")
    for exchange in run.transcript:
        step = torch.cat([(t - exchange.sent[n]).flatten() for n, t in exchange.update.tensors.items()])
        assert float(step.norm()) == pytest.approx(0.01, rel=1e-3)


def test_a_mod_that_breaks_is_named_with_the_client():
    def broken(message, context, call_next):  # noqa: ARG001
        raise OSError("no disk")

    with pytest.raises(ValueError, match=r"'bob': OSError: no disk"):
        train(FlowerEngine(mods=[broken]), rounds=1, schedule="fedavg")


def test_answers_that_flower_damages_are_the_clients_fault():
    with (
        FlowerEngine(mods=[LocalDpMod(1.0, 1.0, 0, 1e-5)]) as engine,
        np.errstate(all="ignore"),
        pytest.raises(ValueError, match=r"NaN|infin"),
    ):
        train(engine, rounds=1, schedule="fedavg")
