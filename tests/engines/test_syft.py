"""PySyft: jobs, reviews, refusals; what an approval is worth; faults. (The contract has the training.)"""

from __future__ import annotations

import io
import os
import socket
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import fedpriv
from fedpriv.cli import scripts
from fedpriv.defenses import Clip, MixUp
from fedpriv.engines.syft import ApproveAnything, OnlyRequests, SyftEngine
from fedpriv.engines.syft.review import program_of, read_script, write_script
from tests.engines.contract import assert_same, digits, train, victim
from tests.engines.test_faults import request

needs_syft = pytest.mark.skipif(find_spec("syft_rds") is None, reason="syft-rds is not installed")
ROOT = Path(__file__).parents[2]
COPY_OUT = """mkdir -p code/outputs
find "$SYFTBOX_FOLDER" -path "*private*" -name "*.npz" -exec cp {} code/outputs/ \\;
"""


def trainer(engine, **settings):
    return fedpriv.FederatedTrainer(
        settings.pop("model", None) or victim(),
        settings.pop("loss_fn", nn.functional.cross_entropy),
        digits(),
        **{"lr": 0.1, "schedule": "fedsgd", "engine": engine, **settings},
    )


@pytest.fixture
def engine():
    with SyftEngine() as opened:
        yield opened


def test_importing_the_engine_does_not_import_pysyft():
    code = "import sys, fedpriv.engines.syft; assert not [n for n in sys.modules if n.startswith('syft')]"
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": str(ROOT)})


def test_a_missing_pysyft_is_named(monkeypatch):
    monkeypatch.setattr("fedpriv.engines.syft.engine.PACKAGES", {"syft-that-is-missing": "0.10.0"})
    with pytest.raises(
        ImportError, match=r"which is not installed; get it with: pip install fedpriv\[syft\]"
    ):
        SyftEngine()


@needs_syft
def test_another_version_is_named(monkeypatch):
    monkeypatch.setattr("fedpriv.engines.syft.engine.PACKAGES", {"syft-rds": "0.6.0"})
    with pytest.raises(
        ImportError, match=r"needs syft-rds 0\.6\.0, got 0\.6\.1; .* pip install fedpriv\[syft\]"
    ):
        SyftEngine()


@needs_syft
def test_approvals_are_logged_and_the_terminal_stays_quiet(engine, capfd):
    run = trainer(engine).run(2)
    assert [(v.client, v.approved) for v in engine.log] == [("bob", True), ("alice", True)] * 2
    assert all(np.isfinite(run.losses))
    assert capfd.readouterr() == ("", "")


@needs_syft
def test_a_job_that_copies_the_data_out_is_refused_and_logged(engine):
    trainer(engine)
    seen = engine.submit("bob", COPY_OUT)
    assert seen.status == "rejected"
    assert "code of the server's own is not run on private data" in seen.reason
    assert seen.files == {}
    assert [(v.client, v.approved, v.reason) for v in engine.log] == [("bob", False, seen.reason)]


@needs_syft
def test_nobody_is_asked_before_there_is_a_trainer(engine):
    with pytest.raises(ValueError, match="give the engine to a FederatedTrainer first"):
        engine.submit("bob", COPY_OUT)


@needs_syft
def test_job_mode_gives_the_same_gradients_defended_by_the_owner():
    defenses = [Clip(clip_norm=0.01)]
    settings = {"rounds": 1, "schedule": "fedsgd", "defenses": defenses, "clients": {"bob": digits()["bob"]}}
    with SyftEngine(run_jobs=True) as engine:
        run = train(engine, **settings)
    assert_same(run, train(None, **settings))
    assert run.reports[0].defense == "Clip"


@needs_syft
def test_a_job_that_fails_tells_its_owner_why_and_nobody_else():
    """A label without a class: the error would name it."""
    clients = {"bob": (digits()["bob"][0], torch.tensor([99]))}
    with SyftEngine(run_jobs=True) as engine:
        with pytest.raises(
            ValueError, match="the job ended without a result; the reason stays with its owner"
        ):
            train(engine, rounds=1, schedule="fedsgd", clients=clients)
        assert "Target 99 is out of bounds" in engine.log[-1].reason


@needs_syft
def test_a_tired_owner_gives_the_file_away():
    with SyftEngine(review=ApproveAnything()) as engine:
        trainer(engine)
        seen = engine.submit("bob", COPY_OUT)
    assert seen.status == "done"
    with np.load(io.BytesIO(seen.files["data.npz"]), allow_pickle=False) as arrays:
        np.testing.assert_array_equal(arrays["inputs"], digits()["bob"][0].numpy())


@needs_syft
def test_it_reconnects_by_itself_and_nothing_changes():
    with SyftEngine(jobs_per_connection=2) as engine:
        run = train(engine, rounds=5, schedule="fedsgd", clients={"bob": digits()["bob"]})
        assert [verdict.job for verdict in engine.log] == [f"job-{k}" for k in range(1, 6)]
    assert_same(run, train(None, rounds=5, schedule="fedsgd", clients={"bob": digits()["bob"]}))


@needs_syft
def test_a_connection_that_breaks_is_made_anew(engine):
    federation = trainer(engine)
    state, _ = federation.round(federation.initial_state())
    broken = engine._peers["bob"]

    def fail():
        raise OSError("the line is dead")

    broken.owner = type("Broken", (), {"sync": staticmethod(fail), "email": broken.owner.email})()
    _, result = federation.round(state)
    assert result.exchanges[0].update.sender == "bob"
    assert not result.faults


@needs_syft
def test_a_client_that_stays_away_is_left_out(engine, monkeypatch):
    from fedpriv.engines.syft.peer import Peer

    connect = Peer.connect

    def only_alice(self):
        if self.client.name == "bob":
            raise ConnectionError("bob is asleep")
        connect(self)

    monkeypatch.setattr(Peer, "connect", only_alice)
    run = trainer(engine, min_answers=1).run(1)
    assert run.transcript.senders == ("alice",)
    assert run.faults[0].reason == "could not be reached, also after connecting anew; bob is asleep"


class Faulty(SyftEngine):
    """Bob tampers with his answer."""

    def __init__(self, tamper):
        super().__init__()
        self.tamper = tamper

    def answer_text(self, visit):
        if visit.reply.client != "bob":
            return super().answer_text(visit)
        return self.tamper(super().answer_text, visit)


def with_tensors(change):
    def tamper(write, visit):
        return write(replace(visit, reply=replace(visit.reply, tensors=change(dict(visit.reply.tensors)))))

    return tamper


@needs_syft
@pytest.mark.parametrize(
    ("tamper", "sentence"),
    [
        (lambda write, visit: write(visit)[:-20], "must be one line of JSON"),
        (lambda *_: "x" * 10**6, "may have at most"),
        (
            lambda write, visit: write(replace(visit, reply=replace(visit.reply, request="9/bob"))),
            "to '9/bob'",
        ),
        (with_tensors(lambda t: {n: v * float("nan") for n, v in t.items()}), "must be finite"),
        (with_tensors(lambda t: {n: v[..., :1] for n, v in t.items()}), "must have shape"),
        (with_tensors(lambda t: {"w": t["0.weight"]}), "must have the parameters"),
    ],
)
def test_a_faulty_client_is_named_and_left_out(tamper, sentence):
    with Faulty(tamper) as engine:
        run = trainer(engine, min_answers=1).run(1)
    assert run.transcript.senders == ("alice",)
    assert [fault.client for fault in run.faults] == ["bob"]
    assert sentence in run.faults[0].reason


@needs_syft
def test_an_owner_cannot_answer_a_job_twice(engine):
    trainer(engine)
    peer = engine._peer("bob", engine._owners)
    name = peer.submit(write_script(program_of(engine._owners), sensible(engine)))
    job = peer.received(name)
    peer.decide(job)
    peer.deposit(job, "reply.json", "first")
    with pytest.raises(ConnectionError, match="not in pending or approved status"):
        peer.deposit(peer.received(name), "reply.json", "second")
    assert peer.outcome(name).files == {"reply.json": b"first"}


def sensible(engine, **changes):
    owners = engine._owners
    state = owners.training.model.state_dict()
    return request(**{"state": state, "parameters": {"lr": 0.1}, **changes})


@needs_syft
def test_nothing_leaves_the_machine(engine, monkeypatch):
    def refuse(*_):
        raise AssertionError("PySyft tried to reach the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    assert len(trainer(engine).run(1).transcript) == 2


def owners_of(**settings):
    return trainer(None, **settings)._owners


def test_the_script_of_a_request_is_approved_and_every_other_is_not():
    owners = owners_of()
    sent = request(state=owners.training.model.state_dict(), parameters={"lr": 0.1})
    script = write_script(program_of(owners), sent)
    assert OnlyRequests().judge(script, owners).id == sent.id
    first, *rest = script.splitlines(keepends=True)
    for forged in (
        "",
        "#!/bin/bash\n",
        script + "cp -r . /tmp\n",
        first + "cp -r . /tmp\n" + "".join(rest),
        script.replace("FEDPRIV_REQUEST'\n", "FEDPRIV_REQUEST'\n\nFEDPRIV_REQUEST\ncp -r . /tmp\n"),
        script.replace("fedpriv.engines.syft.job", "eve.job"),
    ):
        with pytest.raises(ValueError, match="code of the server's own is not run on private data"):
            OnlyRequests().judge(forged, owners)


@pytest.mark.parametrize(
    ("program", "changes", "sentence"),
    [
        ({}, {}, "architecture or loss is not the one that was agreed"),
        (None, {"operation": "copy_data"}, "refuses the operation 'copy_data'"),
        (None, {"state": {"w": torch.zeros(1)}}, "another model than agreed"),
        (None, {"parameters": {"lr": -1.0}}, "lr must be a positive finite number"),
    ],
)
def test_a_request_in_the_right_script_is_still_checked(program, changes, sentence):
    owners = owners_of()
    given = {"state": owners.training.model.state_dict(), "parameters": {"lr": 0.1}, **changes}
    script = write_script(program_of(owners) if program is None else program, request(**given))
    with pytest.raises(ValueError, match=sentence):
        OnlyRequests().judge(script, owners)


def test_a_body_that_is_no_request_is_refused():
    owners = owners_of()
    script = write_script(program_of(owners), request(state=owners.training.model.state_dict()))
    body = script.splitlines()[4]
    for forged, sentence in (
        ("{", "one line of JSON"),
        ("{}", "a program and a request"),
        ("[]", "a program"),
    ):
        with pytest.raises(ValueError, match=sentence):
            read_script(script.replace(body, forged))


class Custom(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(64, 10)

    def forward(self, x):
        return self.inner(x)


@needs_syft
def test_what_a_job_cannot_carry_is_said_before_training():
    with pytest.raises(ValueError, match="model must be made of plain layers"):
        trainer(SyftEngine(run_jobs=True), model=Custom())
    with pytest.raises(ValueError, match="which act inside the training; use run_jobs=False"):
        trainer(SyftEngine(run_jobs=True), defenses=[MixUp()])
    clients = {"bob": (torch.zeros(1, 64, dtype=torch.bfloat16), torch.tensor([0]))}
    with pytest.raises(ValueError, match="without bfloat16"):
        fedpriv.FederatedTrainer(victim(), nn.functional.cross_entropy, clients, lr=0.1, engine=SyftEngine())


@needs_syft
def test_deposit_mode_takes_any_model():
    torch.manual_seed(0)
    clients = {"alice": digits()["alice"]}
    with SyftEngine() as engine:
        run = train(
            engine,
            rounds=1,
            schedule="fedsgd",
            model=Custom(),
            clients=clients,
            defenses=[MixUp(num_classes=10)],
        )
    assert len(run.transcript) == 1
    assert {report.defense for report in run.reports} == {"MixUp"}


@needs_syft
@pytest.mark.parametrize("seed", [1])
def test_the_demo_leaks_what_was_approved_and_noise_stops_it(seed, tmp_path):
    demo = scripts.load(scripts.find("demos")["syft_peers"])
    result = demo.main(tmp_path, seed=seed)
    assert (result["copy"]["status"], result["copy"]["files"]) == ("rejected", [])
    assert [row["approved"] for row in result["log"]] == [False, True, True, True, True]
    assert min(result["leaks"]["approved"]["psnr"]) > 60
    assert result["leaks"]["noise"]["recovered"] == 0
    assert "REFUSED" in demo.report(result)
