"""What every engine promises: the same training, the same updates, the same leak, defenses at the owner.

`tests/engines/test_contract.py` runs every check over every engine. A check takes a function that makes a
fresh engine; None stands for the default of the trainer.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

import attacks
import fedpriv
from fedpriv.defenses import Averaging, Clip, GaussianNoise
from fedpriv.engines import Engine
from fedpriv.lab import score
from fedpriv.wire import Transcript

Make = Callable[[], Engine]
TOLERANCE = 1e-6


def digits():
    """One digit for bob, three for alice."""
    images, labels = fedpriv.data.images.digits()
    flat = images.flatten(1)
    return {"bob": (flat[:1], labels[:1]), "alice": (flat[10:13], labels[10:13])}


def victim():
    torch.manual_seed(7)
    return nn.Sequential(nn.Linear(64, 32), nn.Sigmoid(), nn.Linear(32, 10))


def normed_victim():
    """With buffers, which cross the wire with parameters."""
    torch.manual_seed(7)
    return nn.Sequential(nn.Linear(64, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 10))


def train(
    engine: Engine | None, *, rounds: int = 2, model: nn.Module | None = None, clients=None, **settings
):
    trainer = fedpriv.FederatedTrainer(
        model or victim(),
        nn.functional.cross_entropy,
        clients or digits(),
        **{"lr": 0.1, "generator": torch.Generator().manual_seed(3), "engine": engine, **settings},
    )
    return trainer.run(rounds)


def in_order(transcript: Transcript):
    return sorted(transcript, key=lambda e: (e.update.round, e.update.sender))


def assert_same(mine: fedpriv.Run, local: fedpriv.Run) -> None:
    """Equal transcripts up to rounding and order of arrival, and equal final models."""
    assert len(mine.transcript) == len(local.transcript) > 0
    assert mine.transcript.knowledge == local.transcript.knowledge
    for a, b in zip(in_order(mine.transcript), in_order(local.transcript), strict=True):
        assert (a.update.kind, a.update.sender, a.update.round, a.update.num_samples) == (
            b.update.kind,
            b.update.sender,
            b.update.round,
            b.update.num_samples,
        )
        for got, wanted in ((a.sent, b.sent), (a.update.tensors, b.update.tensors)):
            assert list(got) == list(wanted)
            for name in wanted:
                assert got[name].dtype == wanted[name].dtype
                torch.testing.assert_close(got[name], wanted[name], rtol=TOLERANCE, atol=TOLERANCE)
    for p, q in zip(mine.model.state_dict().values(), local.model.state_dict().values(), strict=True):
        torch.testing.assert_close(p, q, rtol=TOLERANCE, atol=TOLERANCE)


def equal_gradients(make: Make) -> None:
    with make() as engine:
        assert_same(train(engine, schedule="fedsgd"), train(None, schedule="fedsgd"))


def equal_parameters(make: Make) -> None:
    """Several local steps, weights by samples, batch norm statistics."""
    data = digits()
    settings = {
        "schedule": "fedavg",
        "local_steps": 2,
        "weights": "samples",
        "model": normed_victim(),
        "clients": {"bob": data["alice"], "alice": tuple(torch.cat([t, t[:1]]) for t in data["alice"])},
    }
    with make() as engine:
        assert_same(train(engine, **settings), train(None, **settings))


def equal_in_sequence(make: Make) -> None:
    with make() as engine:
        assert_same(train(engine), train(None))


def leak_of(run: fedpriv.Run) -> float:
    """Peak signal-to-noise ratio of bob's digit, from the transcript alone."""
    found = attacks.reconstruct(run.transcript, client="bob", time_budget=20.0)
    return float(score(found, *digits()["bob"]).psnr.min())


def same_leak(make: Make) -> None:
    with make() as engine:
        mine = leak_of(train(engine, rounds=1, schedule="fedsgd"))
    assert mine > 60
    assert leak_of(train(None, rounds=1, schedule="fedsgd")) > 60


def defenses_act_at_the_owner(make: Make) -> None:
    """The clip is in what crosses the wire, not in what the server makes of it."""
    defenses = [Clip(clip_norm=0.01)]
    with make() as engine:
        run = train(engine, rounds=1, schedule="fedsgd", defenses=defenses)
    assert_same(run, train(None, rounds=1, schedule="fedsgd", defenses=defenses))
    for update in run.transcript.updates():
        norm = sum(float(t.double().square().sum()) for t in update.tensors.values()) ** 0.5
        assert norm == pytest.approx(0.01, rel=1e-4)


def noise_stops_the_leak(make: Make) -> None:
    noise = [GaussianNoise(clip_norm=1.0, noise_multiplier=0.1)]
    with make() as engine:
        noisy = train(engine, rounds=1, schedule="fedsgd", defenses=noise)
    plain = train(None, rounds=1, schedule="fedsgd", defenses=[Clip(clip_norm=1.0)])
    a, b = noisy.transcript.updates("bob")[0].tensors, plain.transcript.updates("bob")[0].tensors
    difference = torch.cat([(a[name] - b[name]).flatten() for name in b])
    assert float(difference.std()) == pytest.approx(0.1, rel=0.15)  # 2410 draws: 10 standard errors
    assert leak_of(noisy) < 20


def refuses_what_is_not_allowed(make: Make) -> None:
    with (
        make() as engine,
        pytest.raises(ValueError, match=r"'bob'.*'local_update'.* is not on the allow-list"),
    ):
        train(engine, schedule="fedavg", allowed=("gradient",))


def leaves_out_who_refuses(make: Make) -> None:
    """Bob's label does not fit the model; the run goes on with alice."""
    data = digits()
    clients = {"bob": (data["bob"][0], torch.tensor([99])), "alice": data["alice"]}
    with make() as engine:
        run = train(engine, rounds=1, clients=clients, schedule="fedavg", min_answers=1)
    assert run.transcript.senders == ("alice",)
    assert [fault.client for fault in run.faults] == ["bob"]
    assert "Target 99 is out of bounds" in run.faults[0].reason
    assert_same(run, train(None, rounds=1, clients={"alice": data["alice"]}, schedule="fedavg"))


def says_that_nobody_can_stand_between(make: Make) -> None:
    engine = make()
    if engine.in_process:
        train(engine, rounds=1, defenses=[Averaging()])
        return
    with pytest.raises(
        ValueError, match=f"the {engine.name} engine hands every answer straight to the server"
    ):
        train(engine, rounds=1, defenses=[Averaging()])


CHECKS = (
    equal_gradients,
    equal_parameters,
    equal_in_sequence,
    same_leak,
    defenses_act_at_the_owner,
    noise_stops_the_leak,
    refuses_what_is_not_allowed,
    leaves_out_who_refuses,
    says_that_nobody_can_stand_between,
)
