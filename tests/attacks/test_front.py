"""The front door: whose data, which attack, and a refusal that says why."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import attacks
import fedpriv
from attacks import NotIdentifiable
from fedpriv import Transcript
from fedpriv.defenses import Averaging
from fedpriv.losses import squared_error
from tests.attacks.scenes import max_abs_error, normal, observe, visits

CLIENTS = {"bob": (normal(2, 3), normal(2, 1)), "alice": (normal(2, 3, seed=2), normal(2, 1, seed=3))}


def trained(rounds=8, **settings):
    return fedpriv.FederatedTrainer(
        fedpriv.models.linear(3), squared_error, CLIENTS, lr=0.05, **settings
    ).run(rounds=rounds)


@pytest.mark.parametrize("schedule", ["fedsgd", "fedavg"])
def test_averaging_refuses_bob_and_says_why(schedule):
    transcript = trained(defenses=[Averaging()], schedule=schedule).transcript
    with pytest.raises(NotIdentifiable) as refusal:
        attacks.reconstruct(transcript, client="bob")
    for part in ("'bob' alone", "average over ['bob', 'alice']", "client='aggregator'", "no longer of whom"):
        assert part in str(refusal.value)


@pytest.mark.parametrize("schedule", ["fedsgd", "fedavg"])
def test_what_the_pooled_update_still_reveals(schedule):
    transcript = trained(defenses=[Averaging()], schedule=schedule).transcript
    with pytest.raises(NotIdentifiable, match=r"4 samples are determined only up to a rotation") as refusal:
        attacks.reconstruct(transcript, client="aggregator")
    everyone = torch.cat([x for x, _ in CLIENTS.values()])
    assert torch.allclose(refusal.value.determined["mean"].float(), everyone.mean(dim=0), atol=1e-3)
    report = attacks.identifiability(transcript.observations("aggregator"))
    assert (report.min_samples, report.max_samples) == (4, 4)


def test_two_clients_with_one_sample_each_leak_though_nobody_knows_whose():
    clients = {name: (x[:1], y[:1]) for name, (x, y) in CLIENTS.items()}
    trainer = fedpriv.FederatedTrainer(
        fedpriv.models.linear(3), squared_error, clients, lr=0.05, defenses=[Averaging()], schedule="fedsgd"
    )
    found = attacks.reconstruct(trainer.run(rounds=6).transcript)
    assert max_abs_error(found.inputs, torch.cat([x for x, _ in clients.values()])) < 1e-3
    assert found.certified.all()


def test_every_client_of_a_transcript():
    transcript = trained().transcript
    for name, (x, _) in CLIENTS.items():
        assert max_abs_error(attacks.reconstruct(transcript, client=name).inputs, x) < 1e-3
    with pytest.raises(ValueError, match=r"updates from \['bob', 'alice'\]; say whose data .* client="):
        attacks.reconstruct(transcript)
    with pytest.raises(ValueError, match=r"client must be one of \['bob', 'alice'\], got 'eve'"):
        attacks.reconstruct(transcript, client="eve")


def test_the_client_may_be_left_out_if_there_is_one():
    run = fedpriv.FederatedTrainer(
        fedpriv.models.linear(3), squared_error, {"bob": CLIENTS["bob"]}, lr=0.05
    ).run(rounds=5)
    assert max_abs_error(attacks.reconstruct(run.transcript).inputs, CLIENTS["bob"][0]) < 1e-3


def test_an_observation_of_somebody_else():
    seen = trained().transcript.observations("bob")
    assert attacks.reconstruct(seen, client="bob").num_samples == 2
    for evidence in (seen, seen[0]):
        with pytest.raises(ValueError, match=r"client must be 'bob', who sent this evidence, .* got 'eve'"):
            attacks.reconstruct(evidence, client="eve")


@pytest.mark.parametrize("evidence", [None, [], "run.safetensors", 3, [None]])
def test_evidence_of_the_wrong_kind(evidence):
    for attack in (attacks.reconstruct, attacks.identifiability):
        with pytest.raises(ValueError, match="expected an Observation or a non-empty sequence of them"):
            attack(evidence)


def test_an_empty_transcript():
    empty = Transcript([], model=nn.Linear(3, 1), loss_fn=squared_error)
    with pytest.raises(ValueError, match=r"updates from \[\]"):
        attacks.reconstruct(empty)


def test_a_transcript_of_another_model(tmp_path):
    path = visits(*CLIENTS["bob"], rounds=2).save(tmp_path / "run")
    with pytest.raises(ValueError, match="belongs to another model: pass the model of this training run"):
        Transcript.load(path, model=nn.Linear(4, 1))
    assert attacks.reconstruct(Transcript.load(path), client="bob").num_samples == 2


def test_what_is_determined_comes_first_and_alone():
    data = {"bob": (normal(3, 5), normal(3, 1))}
    run = fedpriv.FederatedTrainer(fedpriv.models.linear(5), squared_error, data, lr=0.05).run(rounds=6)
    with pytest.raises(NotIdentifiable) as refusal:
        attacks.reconstruct(run.transcript)
    said = str(refusal.value)
    assert said.startswith("the data cannot be recovered; 3 samples are determined only up to a rotation")
    assert said.endswith(". 11 other attacks do not apply: attacks.identifiability(observation) lists why")
    assert "iDLG" not in said
    assert len(said) < 450


def test_where_no_attack_applies_the_missing_knowledge_is_named_once():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(2, 2))
    gradient = torch.autograd.grad(
        F.cross_entropy(model(normal(2, 1, 4, 4)), torch.tensor([1, 0])), list(model.parameters())
    )
    seen = fedpriv.Observation(model, gradient, F.cross_entropy)
    with pytest.raises(
        NotIdentifiable, match=r"set Knowledge\.input_shape; .* No attack applies: "
    ) as refusal:
        attacks.reconstruct(seen)
    assert str(refusal.value).count("Knowledge.input_shape") == 1
    report = str(attacks.identifiability(seen))
    for name in ("first-layer inversion", "moment inversion", "consistency and peeling"):
        assert f"no   {name}: " in report


def test_that_there_was_no_time_is_said_once():
    seen = observe(nn.Linear(3, 2), F.cross_entropy, normal(1, 3), torch.tensor([1]))
    with pytest.raises(NotIdentifiable) as refusal:
        attacks.reconstruct(seen, time_budget=1e-9)
    assert str(refusal.value).count("no time left of 1e-09 s for first-layer inversion, moment inver") == 1


def test_several_local_steps_are_refused():
    transcript = trained(local_steps=3).transcript
    with pytest.raises(NotIdentifiable, match=r"3 local step\(s\)"):
        attacks.reconstruct(transcript, client="bob")
    assert "3 local step(s)" in str(attacks.identifiability(transcript.observations("bob")))
