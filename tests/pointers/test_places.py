"""Errors name both places; the hook comes off; a pointer shows only its description."""
# mypy: disable-error-code="attr-defined, operator, union-attr, arg-type, call-overload, var-annotated"
# (the hook adds methods to torch while the tests run)

import copy
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from fedpriv.pointers import (
    DeadPointerError,
    MixedLocationsError,
    NotLocalError,
    TorchHook,
    VirtualWorker,
    send,
)


def test_two_owners_are_named(bob, alice):
    with pytest.raises(
        MixedLocationsError, match=r"aten.add.Tensor got operands in two places: bob and alice"
    ):
        torch.ones(2).send(bob) + torch.ones(2).send(alice)
    with pytest.raises(ValueError, match=r"bob and bob \(two workers of the same name\)"):
        torch.ones(2).send(bob) + torch.ones(2).send(VirtualWorker(id="bob"))


LOCAL = {
    "add": lambda x: x + torch.ones(2),
    "radd": lambda x: torch.ones(2) + x,
    "0-d": lambda x: x * torch.tensor(2.0),
    "in place": lambda x: torch.ones(2).add_(x),
    "copy into local": lambda x: torch.ones(2).copy_(x),
    "copy into local 0-d": lambda x: torch.ones(()).copy_(x[0]),
    "fill local": lambda x: torch.ones(()).fill_(x[0]),
    "setitem local": lambda x: torch.ones(2).__setitem__(0, x[0]),
    "setitem values": lambda x: x.__setitem__(slice(None), torch.ones(2)),
    "index local by pointer": lambda x: torch.ones(2)[x.long()],
    "index_put local": lambda x: torch.ones(3).index_put_((torch.tensor([0, 1]),), x),
    "out": lambda x: torch.add(x, x, out=torch.empty(2)),
    "cat": lambda x: torch.cat([x, torch.ones(1)]),
    "model": lambda x: nn.Linear(2, 1)(x),
    "grad": lambda x: (x * 2).requires_grad_().exp().backward(torch.ones(2)),
    "where": lambda x: torch.where(x > 0, x, torch.ones(2)),
}


@pytest.mark.parametrize("mix", LOCAL.values(), ids=LOCAL)
def test_local_operands_are_refused(bob, mix):
    with pytest.raises(
        MixedLocationsError, match=r"got operands in two places: a pointer to bob and a local"
    ):
        mix(torch.ones(2).send(bob))


def test_data_assignment_needs_the_same_place(bob):
    x = torch.ones(2).send(bob)
    with pytest.raises(MixedLocationsError, match="the new value is local; send it to bob"):
        x.data = torch.zeros(2)


def test_printing_contacts_nobody(bob):
    x = torch.ones(2, 2).send(bob)
    before = bob.messages
    text = repr(x)
    assert text == f"PointerTensor(shape=(2, 2), dtype=torch.float32, location=bob, id={x.id_at_location})"
    assert str(x) == f"{x}" == text
    assert repr(bob) == "<VirtualWorker id:bob #objects:1>"
    assert bob.messages == before
    assert bob._objects[x.id_at_location].tolist() == [[1, 1], [1, 1]]


def test_dead_pointers_say_so(bob, alice):
    x = torch.ones(2).send(bob)
    x.get()
    for use in (lambda: x + 1, x.get, lambda: x.move(alice)):
        with pytest.raises(DeadPointerError, match=r"bob no longer holds object \d+"):
            use()
    y = torch.ones(2).send(bob)
    assert y.move(bob) is y
    z = y.move(alice)
    with pytest.raises(DeadPointerError, match="bob no longer holds"):
        y + 1
    assert z.get().tolist() == [1, 1]
    w = torch.ones(1).send(bob)
    bob.clear_objects()
    with pytest.raises(DeadPointerError, match="bob"):
        w.get()


def test_move_goes_directly_and_takes_the_gradient(bob, alice):
    x = torch.ones(2, requires_grad=True).send(bob)
    (x * 3).sum().backward()
    sent = bob.bytes_sent
    moved = x.move(alice)
    assert bob.bytes_sent - sent == 2 * 8
    assert moved.requires_grad
    assert moved.grad.location is alice
    assert alice.bytes_sent == 0
    assert moved.get().grad.tolist() == [3, 3]


def test_what_needs_values_is_refused(bob, tmp_path: Path):
    x = torch.ones(2).send(bob)
    uses = (
        lambda: pickle.dumps(x),
        lambda: torch.save(x, tmp_path / "x.pt"),
        lambda: copy.copy(x),
        x.numpy,
        lambda: np.from_dlpack(x),
        lambda: np.asarray(x),
        x.tolist,
        x.data_ptr,
        x.untyped_storage,
        x.storage,
        x.share_memory_,
    )
    for use in uses:
        with pytest.raises(NotLocalError, match=r"needs the values, which are at bob; call .get\(\) first"):
            use()
    with pytest.raises(NotLocalError, match="other storage"):
        x.resize_(3)


def test_deepcopy_of_pointers(bob):
    x = torch.ones(2, requires_grad=True).send(bob)
    (x * 2).sum().backward()
    first, second = copy.deepcopy([x, x])
    assert first is second
    assert first.location is bob
    with torch.no_grad():
        first.add_(1)
    assert x.get().tolist() == [1, 1]
    assert first.grad.get().tolist() == [2, 2]
    with pytest.raises(RuntimeError, match="Only leaf pointers support deepcopy"):
        copy.deepcopy(second * 2)


def test_bad_arguments(bob):
    x = torch.ones(2)
    for bad in ("bob", None, 3):
        with pytest.raises(ValueError, match="send expects a VirtualWorker"):
            x.send(bad)
        with pytest.raises(ValueError, match="move expects a VirtualWorker"):
            x.send(bob).move(bad)
    with pytest.raises(
        MixedLocationsError, match=r"send expects a local tensor, this one is at bob.*move\(bob\)"
    ):
        x.send(bob).send(bob)
    with pytest.raises(MixedLocationsError, match="get expects a pointer, this tensor is local"):
        x.get()
    with pytest.raises(ValueError, match="send expects a tensor or a module, got list"):
        send([x], bob)
    with pytest.raises(ValueError, match="expects a TorchHook or None first, got 'bob'"):
        VirtualWorker("bob")
    for bad in ("", 5):
        with pytest.raises(ValueError, match="non-empty string"):
            VirtualWorker(bob.hook, id=bad)
    with pytest.raises(ValueError, match="expects the module torch"):
        TorchHook(np)


# -- the hook ------------------------------------------------------------------------------------------


def _is_clean():
    from torch.optim.optimizer import _global_optimizer_pre_hooks

    names = ("send", "get", "move", "location")
    patched = [name for name in names for owner in (torch.Tensor, nn.Module) if hasattr(owner, name)]
    return not patched and not hasattr(nn.Module, "copy") and not _global_optimizer_pre_hooks


def test_unhook_restores_torch():
    assert _is_clean()
    hook = TorchHook(torch)
    assert torch.ones(1).location is None
    bob = VirtualWorker(hook, id="bob")
    pointer = torch.ones(1).send(bob)
    assert bob.hook is hook
    hook.unhook()
    hook.unhook()
    assert _is_clean()
    assert pointer.get() == 1


def test_nested_and_lost_hooks():
    with TorchHook(torch) as outer:
        with TorchHook(torch):
            pass
        assert hasattr(torch.Tensor, "send")
        outer.unhook()
        assert _is_clean()
    hook = TorchHook(torch)
    hook = TorchHook(torch)
    hook.unhook()
    assert _is_clean()
    with pytest.raises(KeyError), TorchHook(torch):
        raise KeyError
    assert _is_clean()


def test_what_was_there_before_comes_back():
    torch.Tensor.send = "theirs"
    try:
        TorchHook(torch).unhook()
        assert torch.Tensor.send == "theirs"
    finally:
        del torch.Tensor.send
    assert _is_clean()


def test_modules_keep_attributes_named_like_ours(bob):
    class Robot(nn.Module):
        def __init__(self):
            super().__init__()
            self.move = nn.Linear(2, 1)
            self.location = "Paris"

        def send(self):
            return "mail"

    robot = Robot()
    assert isinstance(robot.move, nn.Linear)
    assert robot.location == "Paris"
    assert robot.send() == "mail"
    send(robot, bob)
    assert robot.move.location is bob
    assert nn.ParameterDict({"a": nn.Parameter(torch.ones(1))}).get("a") == 1
