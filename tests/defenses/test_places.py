"""Aggregators over updates that live on workers: nothing but the mean passes the server."""

from __future__ import annotations

import pytest
import torch

from fedpriv.defenses import Averaging, SecretSharing
from fedpriv.pointers import PrivateValueError, VirtualWorker, get, send
from tests.defenses.conformance import AGGREGATORS, seeded

HALVES = {"bob": 0.5, "alice": 0.5}


@pytest.mark.parametrize("case", AGGREGATORS, ids=lambda case: case.name)
@pytest.mark.parametrize("private", [False, True])
def test_means_of_remote_updates(case, private):
    bob, alice = VirtualWorker(id="bob"), VirtualWorker(id="alice")
    updates = {
        "bob": {"w": send(torch.tensor([1.0, 2.0]), bob, private=private)},
        "alice": {"w": send(torch.tensor([3.0, 5.0]), alice, private=private)},
    }
    mean, _ = case.make(seeded()).combine(updates, HALVES)
    assert mean["w"].tolist() == [2.0, 3.5]
    assert updates["bob"]["w"].private is private


@pytest.mark.parametrize("case", AGGREGATORS, ids=lambda case: case.name)
def test_a_remote_and_a_local_client_can_be_averaged(case):
    bob = VirtualWorker(id="bob")
    updates = {"bob": {"w": send(torch.tensor(1.0), bob, private=True)}, "alice": {"w": torch.tensor(3.0)}}
    assert case.make(seeded()).combine(updates, HALVES)[0]["w"].item() == 2.0


@pytest.mark.parametrize("case", AGGREGATORS, ids=lambda case: case.name)
def test_the_server_fetches_nothing_of_a_single_private_client(case, monkeypatch):
    fetched = []
    original = VirtualWorker.fetch

    def spy(self, ref, *, user=None):
        value = original(self, ref, user=user)
        fetched.append(value)
        return value

    monkeypatch.setattr(VirtualWorker, "fetch", spy)
    workers = {name: VirtualWorker(id=name) for name in HALVES}
    values = {"bob": torch.tensor([1.0, 2.0]), "alice": torch.tensor([3.0, 5.0])}
    updates = {name: {"w": send(values[name], workers[name], private=True)} for name in HALVES}
    case.make(seeded()).combine(updates, HALVES)
    seen = [value.double() for value in fetched]
    assert seen
    assert not any(torch.equal(s, v.double() * w) for s in seen for v in values.values() for w in (0.5, 1.0))
    with pytest.raises(PrivateValueError):
        get(updates["bob"]["w"])


def test_updates_reach_the_aggregator_without_passing_the_server():
    bob, alice = VirtualWorker(id="bob"), VirtualWorker(id="alice")
    updates = {"bob": {"w": send(torch.ones(3), bob)}, "alice": {"w": send(torch.ones(3), alice)}}
    before = {worker: worker.bytes_sent for worker in (bob, alice)}
    Averaging().combine(updates, HALVES)
    # each hands over 12 bytes, straight to the aggregator
    assert all(worker.bytes_sent - before[worker] == 12 for worker in (bob, alice))


def test_the_owners_record_what_they_released():
    bob, alice = VirtualWorker(id="bob"), VirtualWorker(id="alice")
    updates = {"bob": {"w": send(torch.ones(3), bob, private=True)}, "alice": {"w": torch.ones(3)}}
    Averaging().combine(updates, HALVES)
    SecretSharing().combine(updates, HALVES)
    assert [release.reason for release in bob.releases] == ["mean over 2 clients", "additive shares"]
    assert alice.releases == []
