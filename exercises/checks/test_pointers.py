"""Checks of the exercise `pointers`."""

from __future__ import annotations

import pytest
import torch

import fedpriv


@pytest.fixture
def hook():
    with fedpriv.TorchHook(torch) as hook:
        yield hook


def test_place(answer, hook, generator):
    name = f"worker{int(torch.randint(1000, (1,), generator=generator))}"
    pointer = fedpriv.pointers.send(torch.ones(2), fedpriv.VirtualWorker(hook, id=name))
    found = answer.place(pointer)
    assert isinstance(found, str), (
        f"expected the id of the worker, a string, got {type(found).__name__}: location.id"
    )
    assert found == name, f"the tensor is at {name!r}, got {found!r}"
    assert answer.place(pointer + 1) == name, "the result of pointer + 1 is where the operand is"
    assert answer.place(torch.ones(2)) == "here", "an ordinary tensor is 'here'"


def test_total(answer, hook, generator):
    values = [torch.randint(0, 100, shape, generator=generator).float() for shape in ((3,), (2, 2), (5,))]
    workers = [fedpriv.VirtualWorker(hook, id=name) for name in ("bob", "alice", "carol")]
    pointers = [fedpriv.pointers.send(v, w) for v, w in zip(values, workers, strict=True)]
    found = answer.total(pointers)
    assert not isinstance(found, fedpriv.PointerTensor), "the sum is still at a worker: get it"
    expected = sum(float(v.sum()) for v in values)
    assert float(found) == expected, f"expected {expected}, got {float(found)}"
    sent = [worker.bytes_sent for worker in workers]
    assert max(sent) <= 8, f"only one number may leave each worker, but {sent} bytes left: sum before you get"


def test_train_step(answer, hook, generator):
    data, target = torch.rand(6, 3, generator=generator), torch.rand(6, 1, generator=generator)
    weights = torch.rand(3, 1, generator=generator)
    bob = fedpriv.VirtualWorker(hook, id="bob")
    there = (fedpriv.pointers.send(data, bob), fedpriv.pointers.send(target, bob))
    found = answer.train_step(weights.clone(), *there, 0.01)
    assert not isinstance(found, fedpriv.PointerTensor), "the new weights are still at Bob's: get them"
    gradient = 2 * data.T @ (data @ weights - target)
    if found.shape == weights.shape:
        assert not torch.allclose(found, weights + 0.01 * gradient), (
            "a step downhill: minus the gradient, not plus"
        )
        assert not torch.allclose(found, weights - 0.01 * gradient / 6), "the loss is a sum, not a mean"
    assert torch.allclose(found, weights - 0.01 * gradient, atol=1e-5), (
        "the weights are not those of plain torch"
    )
    assert bob.bytes_sent <= 4 * 3, (
        f"{bob.bytes_sent} bytes left Bob; three weights are 12: do not fetch his data"
    )
