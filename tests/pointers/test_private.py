"""Private values stay with their owner, and so does everything computed from them."""
# mypy: disable-error-code="attr-defined, operator, union-attr, arg-type, call-overload, var-annotated"
# (the hook adds methods to torch while the tests run)

import pytest
import torch
from torch import nn, optim
from torch.nn import functional as F

from fedpriv.pointers import DeadPointerError, PrivateValueError, RemoteCallError, VirtualWorker


class Halve:
    """A stand-in for a defense: acts on all tensors jointly and reports."""

    def __call__(self, update, context=None):  # noqa: ARG002 - a defense is told by this parameter
        return {name: value / 2 for name, value in update.items()}, f"halved {len(update)}"


@pytest.fixture
def secret(bob):
    return torch.tensor([[1.0, 2.0], [3.0, 4.0]]).send(bob, private=True)


EXITS = {
    "get": lambda x: x.get(),
    "item": lambda x: x[0, 0].item(),
    "float": lambda x: float(x[0, 0]),
    "format": lambda x: f"{x[0, 0]:.2f}",
    "bool": lambda x: bool((x > 0).all()),
    "equal": lambda x: torch.equal(x, x * 1),
    "allclose": lambda x: torch.allclose(x, x + 1),
    "copy": lambda x: x.copy().get(),
    "nonzero": lambda x: (x > 2).nonzero(),
    "mask": lambda x: x[x > 2],
    "unique": lambda x: x.unique(),
    "repeat": lambda x: torch.repeat_interleave(x.view(-1).long()),
    "mean": lambda x: x.mean().get(),
    "times zero": lambda x: (x * 0).get(),
    "view": lambda x: x.view(-1)[1:].get(),
    "detach": lambda x: x.detach().get(),
    "into public": lambda x: torch.zeros_like(x).copy_(x).get(),
    "into view of public": lambda x: torch.zeros_like(x)[0].add_(x[0]).get(),
    "out": lambda x: torch.add(x, 1, out=x.new_zeros(2, 2)).get(),
    "index_put": lambda x: x.new_zeros(2, 2).index_put_((torch.tensor([0]),), x[0]).get(),
    "scatter": lambda x: x.new_zeros(9).scatter_(0, x.view(-1).long(), 1.0).get(),
    "cat": lambda x: torch.cat([x.new_zeros(1, 2), x]).get(),
    "where": lambda x: torch.where(x > 2, x.new_ones(2, 2), x.new_zeros(2, 2)).get(),
    "out of place foreach": lambda x: torch._foreach_add([x, x.new_zeros(2)], 1.0)[0].get(),
    "loop bound": lambda x: range(x[0, 0].int()),
}


@pytest.mark.parametrize("leak", EXITS.values(), ids=EXITS)
def test_no_exit(secret, leak):
    with pytest.raises(PrivateValueError, match=r"refused: the value on bob is private to bob.*bob\.release"):
        leak(secret)


def test_moving_is_an_exit(secret, alice):
    with pytest.raises(PrivateValueError, match="Moving to alice refused"):
        secret.move(alice)
    assert secret.location.id == "bob"


def test_conversions_are_no_exit(secret):
    for leak in (
        lambda: secret.numpy(),
        lambda: secret.tolist(),
        lambda: torch.zeros(()).copy_(secret[0, 0]),
    ):
        with pytest.raises((TypeError, ValueError), match="bob"):
            leak()
    assert "private=True" in repr(secret)
    assert "2." not in repr(secret * 1).replace("id=2.", "")


def test_shapes_and_constants_are_public(secret):
    assert secret.shape == (2, 2)
    assert torch.zeros_like(secret).get().tolist() == [[0, 0], [0, 0]]
    assert secret.new_full((2,), 3.0).get().tolist() == [3, 3]
    rows = secret[torch.tensor([True, False])]
    assert rows.shape == (1, 2)
    assert rows.private


def test_taint_reaches_every_alias_of_the_written_storage(bob, secret):
    public = torch.zeros(2, 2).send(bob)
    view, other = public[0], torch.zeros(2).send(bob)
    alias = public.data
    view.add_(secret[0])
    assert public.private
    assert alias.private
    assert public.view(-1)[3:].private
    assert not other.private
    assert not torch.ones(1).send(bob).private


def test_label_dies_with_its_object(bob, secret):
    (secret * 2).sum()
    del secret
    assert bob._guard.labels == {} or len(bob._objects) == 1


def test_errors_of_private_calls_do_not_quote_values(bob, secret):
    table = torch.zeros(3).send(bob)
    with pytest.raises(RemoteCallError, match="failed on bob with IndexError") as caught:
        table[secret.view(-1).long() + 40]
    assert "44" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


def test_owner_may_read_and_move(bob, alice, secret):
    moved = secret.move(alice, user=bob)
    assert moved.private
    with pytest.raises(PrivateValueError, match="value on alice is private to bob"):
        moved.get(user=alice)
    assert moved.get(user=bob).tolist() == [[1, 2], [3, 4]]
    with pytest.raises(DeadPointerError, match="alice no longer holds"):
        moved + 1


def test_a_namesake_of_the_owner_is_not_the_owner(secret):
    impostor = VirtualWorker(id="bob")
    with pytest.raises(PrivateValueError, match="refused"):
        secret.get(user=impostor)
    with pytest.raises(PrivateValueError, match="Only the owner's own worker object"):
        impostor.release(secret, through=torch.clone)


def test_release_through_a_function(bob, secret):
    mean = bob.release(secret, through=torch.mean, reason="class average")
    assert mean.get() == 2.5
    assert secret.private
    (record,) = bob.releases
    assert (record.owner, record.names, record.through) == ("bob", ("value",), "mean")
    assert record.reason == "class average"
    assert record.report is None
    clone = bob.release(secret, through=lambda value: value)
    clone.add_(1)
    assert secret.get(user=bob)[0, 0] == 1


def test_release_through_a_defense(bob, secret):
    assert bob.release(secret, through=Halve()).get().tolist() == [[0.5, 1], [1.5, 2]]
    assert bob.releases[0].report == "halved 1"


def test_values_of_two_owners_need_both(bob, alice, secret):
    other = torch.ones(2, 2).send(alice, private=True).move(bob, user=alice)
    total = secret + other
    for user in (bob, alice):
        with pytest.raises(PrivateValueError, match="private to alice and bob"):
            total.get(user=user)
    half = bob.release(total, through=torch.clone)
    assert half.private
    assert half.copy().get(user=alice).sum() == 14
    assert alice.release(half, through=torch.sum).get() == 14


def _train_privately(bob, model):
    opt = optim.Adam(model.parameters(), lr=0.1)
    model.send(bob)
    x = torch.randn(6, 2, generator=torch.Generator().manual_seed(1))
    opt.zero_grad()
    loss = F.mse_loss(model(x.send(bob, private=True)), torch.zeros(6, 1).send(bob))
    loss.backward()
    opt.step()
    return opt, loss


def test_training_taints_parameters_gradients_state_and_buffers(bob):
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 1))
    opt, loss = _train_privately(bob, model)
    assert loss.private
    assert all(p.private and p.grad.private and p.data.private for p in model.parameters())
    assert opt.state[model[0].weight]["exp_avg"].private
    assert model[1].running_mean.private
    assert model[1].running_var.private
    assert not model[1].num_batches_tracked.private
    for leak in (model.get, lambda: model.move(VirtualWorker(id="eve")), model.copy().get, loss.get):
        with pytest.raises(PrivateValueError, match=r"refused.*private to bob"):
            leak()
    assert model.location is bob
    assert model.get(user=bob).location is None


def test_release_of_a_module(bob, alice):
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 1))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    _train_privately(bob, model)
    inside = {name: value.get(user=bob) for name, value in model.copy().state_dict().items()}
    with pytest.raises(PrivateValueError, match=r"alice cannot release 0\.weight: it belongs to bob"):
        alice.release(model, through=Halve())
    assert bob.release(model, through=Halve(), reference=before) is model
    model.get()
    for name, value in model.state_dict().items():
        if name != "1.num_batches_tracked":
            assert torch.allclose(value, before[name] + (inside[name] - before[name]) / 2), name
    assert model[0].weight.grad is None
    assert bob.releases[0].report == "halved 8"


def test_release_refuses_bad_input(bob, secret):
    with pytest.raises(ValueError, match=r"a function of a tensor or a defense, got None"):
        bob.release(secret, through=None)
    with pytest.raises(ValueError, match="got a local Tensor"):
        bob.release(torch.ones(1), through=torch.mean)
    with pytest.raises(ValueError, match=r"must return a tensor for 'value', got int"):
        bob.release(secret, through=len)
    model = nn.Linear(2, 1)
    _train_privately(bob, model)
    with pytest.raises(ValueError, match=r"weight has shape \(1, 2\), the function returned \(\)"):
        bob.release(model, through=torch.mean)
    assert model.weight.private


def test_allowed_operation_on_the_value_as_sent(hook):
    bob = VirtualWorker(hook, id="bob", allowed_operations={"aten.mean"}, min_group=3)
    x = torch.arange(12.0).reshape(4, 3).send(bob, private=True)
    assert x.mean().get() == 5.5
    assert x.mean(dim=0).get().tolist() == [4.5, 5.5, 6.5]
    attempts = {
        "another operation": lambda: x.sum(),
        "one element": lambda: x[0, 0].mean(),
        "a slice": lambda: x[1:].mean(),
        "an expanded element": lambda: x[0, 0].expand(100).mean(),
        "a masked copy": lambda: (x * torch.eye(4, 3).send(bob)).mean(),
        "a copy": lambda: x.copy().mean(),
        "the mean of groups of one": lambda: x[:, :, None].mean(dim=2),
        "the mean along no dimension": lambda: x.view(4, 3, 1).mean(dim=-1),
    }
    for name, attempt in attempts.items():
        assert attempt().private, name
    small = torch.ones(2).send(bob, private=True)
    assert small.mean().private
    x.view(-1)[1:].zero_()
    assert x.mean().private


def test_allowed_operations_are_checked(hook):
    with pytest.raises(ValueError, match=r"allowed_operations may hold .* got \['aten.clone'\]"):
        VirtualWorker(hook, id="bob", allowed_operations={"aten.clone"})
    for min_group in (1, 0):
        with pytest.raises(ValueError, match="min_group must be at least 2"):
            VirtualWorker(hook, id="bob", min_group=min_group)
