"""Checks of the exercise `pointers`."""

from __future__ import annotations

import pytest
import torch
from expecting import close, none_of, number, show, tensor, what

import fedpriv


class Watched(fedpriv.VirtualWorker):
    """A worker that remembers every value that leaves: by get, by move, or because Python reads a number."""

    def __init__(self, hook, id):
        super().__init__(hook, id=id)
        self.left = []

    def fetch(self, ref, **given):
        """As get asks for it."""
        value = super().fetch(ref, **given)
        self.left.append(value)
        return value

    def transfer(self, ref, to, **given):
        """As move asks for it."""
        self.left.append(self._lookup(ref).clone())
        return super().transfer(ref, to, **given)

    def execute(self, op, args, kwargs):
        """As an operation on pointers asks for it; float() of a pointer is one."""
        result = super().execute(op, args, kwargs)
        if isinstance(result, (bool, int, float)):
            self.left.append(torch.tensor(float(result)))
        return result


@pytest.fixture
def hook():
    with fedpriv.TorchHook(torch) as hook:
        yield hook


def test_place(answer, hook, generator):
    name = f"worker{int(torch.randint(1000, (1,), generator=generator))}"
    pointer = fedpriv.pointers.send(torch.ones(2), fedpriv.VirtualWorker(hook, id=name))
    found = answer.place(pointer)
    assert isinstance(found, str), f"expected the id of the worker, a string, got {what(found)}" + (
        ": location.id" if isinstance(found, fedpriv.VirtualWorker) else ""
    )
    assert found == name, f"the tensor is at {name!r}, got {found!r}"
    assert answer.place(pointer + 1) == name, "the result of pointer + 1 is where the operand is"
    local = answer.place(torch.ones(2))
    assert local == "here", f"an ordinary tensor is 'here', got {local!r}"


def test_total(answer, hook, generator):
    values = [torch.randint(1, 100, shape, generator=generator).float() for shape in ((3,), (2, 2), (5,))]
    workers = [Watched(hook, id=name) for name in ("bob", "alice", "carol")]
    pointers = [fedpriv.pointers.send(v, w) for v, w in zip(values, workers, strict=True)]
    sums = torch.stack([v.sum() for v in values])
    found = answer.total(pointers)
    if isinstance(found, (list, tuple)):
        assert len(found) != 3, "these are three sums, one for each worker: add them"
    found = number(found)
    mistakes = [
        (sums[0], "this is the sum at the first worker alone: is the return inside the loop?"),
        (sums[-1], "this is the sum at the last worker alone: add to what you have"),
        (sum(v.mean() for v in values), "this is a sum of means"),
    ]
    none_of(found, mistakes, sums.sum())
    assert close(found, sums.sum()), f"expected {show(sums.sum())}, got {show(found)}"
    count = {worker.id: sum(value.numel() for value in worker.left) for worker in workers}
    assert max(count.values()) <= 1, (
        f"only one number may leave each worker, but {count} did: sum before you get"
    )


def check_what_left(left, weights, gradient, data, target):
    """Vectors made of the weights and their gradient alone, and single numbers such as the loss, may leave.

    A row of the data is no such vector; and to get the data in single numbers takes more than there may be.
    """
    known = torch.cat([weights, gradient], dim=1).double()
    singles = 0
    for value in left:
        flat = value.detach().flatten().double()
        singles += flat.numel() == 1
        for name, secret in (("data", data), ("target", target)):
            assert value.shape != secret.shape, f"his {name} left Bob: do not fetch his data"
        if flat.numel() == 1:
            continue
        shape = tuple(value.shape)
        assert flat.numel() == len(weights), (
            f"a Tensor of shape {shape} left Bob, the weights are {tuple(weights.shape)}: compute "
            "the whole step at Bob's, and do not fetch his data"
        )
        rest = flat - known @ torch.linalg.lstsq(known, flat[:, None]).solution.flatten()
        assert rest.norm() <= 1e-4 * flat.norm(), (
            f"a Tensor of shape {shape} left Bob that is neither weights nor gradient: do not fetch his data"
        )
    assert singles <= len(weights) + 1, f"{singles} single numbers left Bob: do not fetch his data"


def test_train_step(answer, hook, generator):
    data, target = torch.rand(6, 3, generator=generator), torch.rand(6, 1, generator=generator)
    weights = torch.rand(3, 1, generator=generator)
    bob = Watched(hook, id="bob")
    there = (fedpriv.pointers.send(data, bob), fedpriv.pointers.send(target, bob))
    found = tensor(answer.train_step(weights.clone(), *there, 0.01), (3, 1))
    gradient = 2 * data.T @ (data @ weights - target)
    right = weights - 0.01 * gradient
    mistakes = [
        (weights + 0.01 * gradient, "a step downhill: minus the gradient, not plus"),
        (weights - 0.01 * gradient / 6, "the loss is a sum, not a mean"),
        (weights - 0.005 * gradient, "half a step: the derivative of a square has a factor 2"),
        (weights - 0.02 * gradient, "two steps: does the gradient come in twice?"),
        (weights - gradient, "the learning rate is missing"),
        (gradient, "this is the gradient: the weights minus lr times it"),
        (0.01 * gradient, "this is lr times the gradient: the weights minus it"),
        (weights, "the weights are what they were: was the step made on a copy?"),
    ]
    none_of(found, mistakes, right)
    assert close(found, right, atol=1e-5), f"expected {show(right.flatten())}, got {show(found.flatten())}"
    check_what_left(bob.left, weights, gradient, data, target)
