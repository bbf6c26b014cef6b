"""Clients and servers that misbehave: one clear sentence each, and the run goes on or stops cleanly."""

from __future__ import annotations

import importlib.metadata
import math
from dataclasses import replace

import pytest
import torch
from torch import nn

import fedpriv
from fedpriv.defenses import Averaging, MixUp, SecureAggregation
from fedpriv.engines import Engine, Fault, LocalEngine, Reply, Request, Visit
from fedpriv.engines.extras import require
from fedpriv.engines.text import reply_from_text, reply_to_text, request_from_text, request_to_text
from fedpriv.losses import squared_error
from fedpriv.training.owners import Owners

X = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
CLIENTS = {"bob": (X[:2], X[:2, :1]), "alice": (X[2:], X[2:, :1]), "carol": (X[1:3], X[1:3, 1:])}


class Meddling(Engine):
    """The local engine, with a hand on the wire: ``meddle(visit)`` gives what arrives instead."""

    name = "meddling"
    in_process = True

    def __init__(self, meddle):
        self.meddle = meddle

    def ask(self, requests, owners):
        for item in LocalEngine().ask(requests, owners):
            yield from self.meddle(item)


def of_bob(change):
    """Meddle with bob's replies alone; `change` gives the tensors that arrive."""

    def meddle(visit):
        if visit.reply.client != "bob":
            return [visit]
        return [replace(visit, reply=replace(visit.reply, tensors=change(dict(visit.reply.tensors))))]

    return meddle


def not_a_number(tensors):
    return {**tensors, "bias": tensors["bias"] * math.nan}


FAULTS = {
    "disconnects": (lambda v: [] if v.reply.client == "bob" else [v], "gave no answer; it disconnected"),
    "answers twice": (
        lambda v: [v, v] if v.reply.client == "bob" else [v],
        "answered twice; the first counts",
    ),
    "sends NaN": (of_bob(not_a_number), "must be finite, but 'bias' contains NaN or infinity"),
    "wrong shapes": (
        of_bob(lambda t: {**t, "weight": t["weight"].T}),
        r"must have shape \(1, 2\) for 'weight', got \(2, 1\)",
    ),
    "another model": (
        of_bob(lambda t: {"0.weight": t["weight"], "0.bias": t["bias"]}),
        r"must have the parameters \['weight', 'bias'\], got \['0\.weight', '0\.bias'\]",
    ),
    "half a model": (of_bob(lambda t: {"weight": t["weight"]}), r"missing \['bias'\]"),
    "more than a model": (of_bob(lambda t: {**t, "x": t["bias"]}), r"not in the model \['x'\]"),
    "other precision": (
        of_bob(lambda t: {**t, "weight": t["weight"].double()}),
        "must hold torch.float32 of shape .* got torch.float64",
    ),
    "whole numbers": (of_bob(lambda t: {**t, "weight": t["weight"].long()}), "must hold real numbers"),
    "no tensors": (
        of_bob(lambda t: {"weight": 3.0, "bias": t["bias"]}),
        "must map parameter names to tensors",
    ),
    "another request": (
        lambda v: [replace(v, reply=replace(v.reply, request="7/bob"))] if v.reply.client == "bob" else [v],
        r"must be that of 'bob' to the request '\d/bob', got one of 'bob' to '7/bob'",
    ),
}


def trainer(engine=None, clients=CLIENTS, **settings):
    torch.manual_seed(0)
    settings = {"lr": 0.1, "schedule": "fedavg", "generator": torch.Generator().manual_seed(1), **settings}
    return fedpriv.FederatedTrainer(nn.Linear(2, 1), squared_error, clients, engine=engine, **settings)


@pytest.mark.parametrize("schedule", ["sequential", "fedavg", "fedsgd"])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_stops_the_run_with_a_sentence(fault, schedule):
    meddle, sentence = FAULTS[fault]
    with pytest.raises(ValueError, match=f"round 0, client 'bob': .*{sentence}"):
        trainer(Meddling(meddle), schedule=schedule).run(2)


@pytest.mark.parametrize("schedule", ["sequential", "fedavg", "fedsgd"])
@pytest.mark.parametrize("fault", FAULTS)
def test_the_run_goes_on_without_the_client_at_fault(fault, schedule):
    meddle, _ = FAULTS[fault]
    run = trainer(Meddling(meddle), schedule=schedule, min_answers=2).run(2)
    assert {item.client for item in run.faults} == {"bob"}
    assert [item.round for item in run.faults] == [0, 1]
    others = {name: data for name, data in CLIENTS.items() if name != "bob" or fault == "answers twice"}
    wanted = trainer(clients=others, schedule=schedule).run(2)
    assert run.transcript.senders == wanted.transcript.senders
    for a, b in zip(run.transcript.updates(), wanted.transcript.updates(), strict=True):
        for name, tensor in b.tensors.items():
            torch.testing.assert_close(a.tensors[name], tensor)
    assert all(math.isfinite(loss) for loss in run.round_losses)


def test_a_round_with_too_few_answers_stops_and_says_why():
    meddle, _ = FAULTS["sends NaN"]
    with pytest.raises(ValueError, match=r"at least 3 clients must answer properly, got 2; 'bob' .*finite"):
        trainer(Meddling(meddle), min_answers=3).run(2)


def test_rounds_before_a_fault_stay_on_disk(tmp_path):
    rounds = []

    def meddle(visit):
        rounds.append(visit)
        return [] if len(rounds) == 8 else [visit]  # alice, in the third round

    with pytest.raises(ValueError, match="round 2, client 'alice': gave no answer"):
        trainer(Meddling(meddle)).run(5, record=tmp_path / "run")
    assert len(fedpriv.Transcript.load(tmp_path / "run")) == 6


@pytest.mark.parametrize("aggregator", [Averaging(), SecureAggregation(threshold=2)])
def test_a_client_that_fails_behind_an_aggregator_is_left_out(aggregator):
    clients = {**CLIENTS, "bob": (X[:2].repeat(1, 2), X[:2, :1])}
    with pytest.raises(ValueError, match=r"round 0, client 'bob': .*must accept inputs of shape"):
        trainer(clients=clients, defenses=[aggregator]).run(1)
    run = trainer(clients=clients, defenses=[aggregator], min_answers=2).run(1)
    assert run.transcript.clients == ("alice", "carol")
    others = {name: data for name, data in CLIENTS.items() if name != "bob"}
    wanted = trainer(clients=others, defenses=[Averaging()]).run(1)
    torch.testing.assert_close(run.model.weight, wanted.model.weight, rtol=1e-5, atol=1e-6)


def test_a_stranger_answers():
    def meddle(visit):
        return [visit, replace(visit, reply=replace(visit.reply, client="eve"))]

    with pytest.raises(ValueError, match="client 'eve': answered without a request"):
        trainer(Meddling(meddle)).run(1)


def request(**changes):
    values = {"id": "0/bob", "client": "bob", "operation": "gradient", "state": nn.Linear(2, 1).state_dict()}
    return Request(**{**values, **changes})


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"operation": "copy_data"}, r"'bob' refuses the operation 'copy_data': it is not on the allow-list"),
        ({"operation": "local_update"}, r"not on the allow-list \['gradient'\]"),
        ({"client": "eve"}, r"must be for one of \['bob', 'alice', 'carol'\], got 'eve'"),
        ({"state": nn.Linear(3, 1).state_dict()}, "server sent another model than agreed"),
        ({"state": {"w": torch.zeros(1)}}, r"must have the parameters \['weight', 'bias'\], got \['w'\]"),
        ({"parameters": {"lr": -1.0}}, "lr must be a positive finite number, got -1.0"),
        ({"parameters": {"lr": True}}, "lr must be a positive finite number, got True"),
        ({"parameters": {"lr": None}}, "lr must be a positive finite number, got None"),
        ({"parameters": {"local_steps": 0}}, "local_steps must be a whole number of 1 or more"),
        ({"parameters": {"batch_size": 0.5}}, "batch_size must be a whole number of 1 or more"),
        ({"parameters": {"on_data": None}}, r"a request may set .*, got \['on_data'\] as well"),
    ],
)
def test_an_owner_refuses_a_bad_request(changes, sentence):
    owners = replace(trainer()._owners, allowed=("gradient",))
    with pytest.raises(ValueError, match=sentence):
        owners.answer(request(**changes))


def test_a_request_that_asks_for_nothing_known_has_no_kind():
    with pytest.raises(ValueError, match=r"the operation must be one of .* got 'copy_data'"):
        _ = request(operation="copy_data").kind


@pytest.mark.parametrize("allowed", [(), ("gradient", "copy_data")])
def test_an_allow_list_cannot_be_widened(allowed):
    with pytest.raises(ValueError, match="an allow-list must name some of the operations"):
        trainer(allowed=allowed)


def test_settings_of_engines_are_checked():
    with pytest.raises(ValueError, match="engine must be an Engine such as LocalEngine"):
        trainer("syft")
    with pytest.raises(ValueError, match=r"min_answers must be at most .* 3, got 4"):
        trainer(min_answers=4)
    with pytest.raises(ValueError, match="min_answers must be a whole number"):
        trainer(min_answers=0)


def test_a_finished_answer_cannot_be_defended_inside_the_training():
    owners: Owners = trainer(defenses=[MixUp()])._owners
    with pytest.raises(ValueError, match="can be defended only as a whole"):
        owners.release(request(), {"weight": torch.zeros(1, 2), "bias": torch.zeros(1)})


def test_missing_and_wrong_packages_are_named_with_the_install():
    with pytest.raises(ImportError, match=r"needs no-such-package 1\.0, .*pip install fedpriv\[syft\]"):
        require("syft", {"no-such-package": "1.0"})
    version = importlib.metadata.version("torch")
    with pytest.raises(ImportError, match=r"needs torch 0\.1, got .*pip install fedpriv\[syft\]"):
        require("syft", {"torch": "0.1"})
    require("syft", {"torch": version})


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_text_gives_back_every_bit(dtype):
    torch.manual_seed(0)
    state = {"z": torch.randn(3, 2).to(dtype), "a": torch.tensor(5), "b": torch.zeros(0, 4, dtype=dtype)}
    sent = request(state=state, parameters={"lr": 0.1, "local_steps": 3, "batch_size": None}, round=2)
    back = request_from_text(request_to_text(sent))
    assert "\n" not in request_to_text(sent)
    assert list(back.state) == ["z", "a", "b"]
    assert all(torch.equal(back.state[n], state[n]) and back.state[n].dtype == state[n].dtype for n in state)
    assert (back.id, back.round, back.parameters) == (sent.id, 2, sent.parameters)
    reply = reply_from_text(reply_to_text(Reply(request="0/bob", client="bob", tensors=state, num_samples=3)))
    assert (reply.client, reply.num_samples, list(reply.tensors)) == ("bob", 3, ["z", "a", "b"])


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda text: text[:-10], "must be one line of JSON"),
        (lambda _: "[]", "must be an object with the keys"),
        (
            lambda text: text.replace('"num_samples": 3', '"num_samples": "3"'),
            "must name its request and client",
        ),
        (
            lambda text: text.replace('"safetensors": "', '"safetensors": "AAAA'),
            "whole safetensors in base64",
        ),
        (lambda text: text.replace('"safetensors": "', '"safetensors": "!'), "whole safetensors in base64"),
        (lambda text: text.replace('"order": ["w"]', '"order": ["v"]'), "must list its 1 tensors in order"),
        (lambda text: text.replace('"order": ["w"]', '"order": "w"'), "must list its 1 tensors in order"),
        (lambda _: '{"a":' * 10000, "must be one line of JSON"),
        (lambda text: text + " " * 1000, "may have at most"),
    ],
)
def test_a_hostile_answer_is_refused(change, sentence):
    text = reply_to_text(Reply(request="0/bob", client="bob", tensors={"w": torch.ones(2)}, num_samples=3))
    with pytest.raises(ValueError, match=sentence):
        reply_from_text(change(text), limit=len(text) + 500 if "at most" in sentence else None)


def test_values_of_the_interface_compare():
    assert Fault(client="bob", reason="r") == Fault(client="bob", reason="r", error=ValueError("x"))
    assert math.isnan(Visit(reply=Reply(request="0/bob", client="bob", tensors={})).loss)
