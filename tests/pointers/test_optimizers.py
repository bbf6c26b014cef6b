"""The state of optimizers travels with the model; the oracle is one plain optimizer on plain data."""
# mypy: disable-error-code="attr-defined, operator, union-attr, arg-type, call-overload, var-annotated"
# (the hook adds methods to torch while the tests run)

import gc

import pytest
import torch
from torch import nn, optim

from fedpriv.federated.floptimizer import Optims
from fedpriv.pointers import PointerTensor, PrivateValueError, VirtualWorker

OPTIMIZERS = {
    "sgd": lambda p: optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True, weight_decay=0.01),
    "adam": lambda p: optim.Adam(p, lr=0.05, amsgrad=True),
    "adamw": lambda p: optim.AdamW(p, lr=0.05),
    "nadam": lambda p: optim.NAdam(p, lr=0.05),
    "rmsprop": lambda p: optim.RMSprop(p, lr=0.05, momentum=0.5, centered=True),
    "adagrad": lambda p: optim.Adagrad(p, lr=0.05),
    "adadelta": lambda p: optim.Adadelta(p, lr=0.5),
    "rprop": lambda p: optim.Rprop(p, lr=0.05),
    "asgd": lambda p: optim.ASGD(p, lr=0.05, t0=2),
    "lbfgs": lambda p: optim.LBFGS(p, lr=0.3, max_iter=3, line_search_fn="strong_wolfe"),
}


class Scaled(nn.Module):
    """A linear layer with a 0-d parameter, whose state has the shape of a counter."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 2)
        self.scale = nn.Parameter(torch.tensor(0.7))

    def forward(self, x):
        return self.scale * self.linear(x).tanh()


def _train(make, places):
    torch.manual_seed(0)
    model = Scaled()
    x, y = torch.randn(6, 3), torch.randn(6, 2)
    opt = make(model.parameters())
    losses = []
    for place in places:
        a, b = (x, y) if place is None else (x.send(place), y.send(place))
        if place is not None:
            model.send(place)

        def closure(a=a, b=b):
            opt.zero_grad()
            loss = ((model(a) - b) ** 2).mean()
            loss.backward()
            return loss

        losses.append(opt.step(closure).detach().item())
        if place is not None:
            model.get()
    return losses, [p.detach() for p in model.parameters()]


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_state_travels_between_workers_and_home(bob, alice, make):
    places = [bob, bob, alice, None, bob, None, alice, alice]
    losses, parameters = _train(make, places)
    expected_losses, expected = _train(make, [None] * len(places))
    assert losses == expected_losses
    assert all(torch.equal(a, b) for a, b in zip(parameters, expected, strict=True))


def test_state_moves_from_worker_to_worker_directly(bob, alice):
    model = nn.Linear(2, 1)
    opt = optim.Adam(model.parameters())
    for place in (bob, alice):
        model.send(place)
        opt.zero_grad()
        model(torch.ones(1, 2).send(place)).sum().backward()
        opt.step()
        assert opt.state[model.weight]["exp_avg"].location is place
        assert type(opt.state[model.weight]["step"]) is torch.Tensor
        model.get()
    assert opt.state[model.weight]["step"] == 2


def test_number_of_objects_stays_constant(bob):
    model = nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 1))
    opt = optim.Adam(model.parameters())
    x = torch.randn(5, 2).send(bob)
    counts = set()
    for step in range(12):
        model.send(bob)
        opt.zero_grad()
        loss = model(x).pow(2).sum()
        loss.backward()
        opt.step()
        model.get()
        del loss
        if step > 2:
            counts.add(len(bob._objects))
    # x, and two moments for each of six parameters; freed by reference counting alone, without gc
    assert counts == {1 + 2 * 6}
    del opt, x
    model.zero_grad()
    gc.collect()
    assert len(bob._objects) == 0


def test_a_dropped_pointer_frees_its_value_and_only_its_value(bob):
    x = torch.ones(3).send(bob)
    y = x + 1
    del x
    assert len(bob._objects) == 1
    assert y.get().tolist() == [2, 2, 2]
    assert len(bob._objects) == 0
    loop = [torch.ones(1).send(bob)]
    loop.append(loop)
    del loop
    gc.collect()
    assert len(bob._objects) == 0


def test_optims_keeps_kind_groups_and_settings(bob):
    model = Scaled()
    groups = [{"params": model.linear.parameters(), "lr": 0.5}, {"params": [model.scale]}]
    for kind in (optim.SGD, optim.AdamW, optim.RMSprop, optim.Adagrad):
        source = kind(groups, lr=0.25, weight_decay=0.125)
        optims = Optims([bob, "alice"], optim=source)
        copies = [optims.get_optim(bob), optims.get_optim("alice")]
        assert copies[0] is optims.get_optim("bob")
        assert copies[0] is not copies[1]
        assert optims.count() == 2
        for copy in copies:
            assert type(copy) is kind
            assert [group["lr"] for group in copy.param_groups] == [0.5, 0.25]
            assert copy.param_groups[0]["weight_decay"] == 0.125
            assert copy.param_groups[1]["params"][0] is model.scale
        groups = [{"params": list(model.linear.parameters()), "lr": 0.5}, {"params": [model.scale]}]


def test_optims_refuses_bad_input():
    model = nn.Linear(1, 1)
    opt = optim.SGD(model.parameters(), lr=1.0)
    with pytest.raises(ValueError, match="expects a torch optimizer, got Linear"):
        Optims(["bob"], optim=model)
    with pytest.raises(ValueError, match="one or more different workers, got \\[\\]"):
        Optims([], optim=opt)
    with pytest.raises(ValueError, match="different workers"):
        Optims(["bob", VirtualWorker(id="bob")], optim=opt)
    with pytest.raises(ValueError, match="No optimizer for worker 'eve'"):
        Optims(["bob"], optim=opt).get_optim("eve")


def test_private_state_does_not_travel(bob, alice):
    model = nn.Linear(2, 1)
    opt = optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model.send(bob)
    model(torch.ones(1, 2).send(bob, private=True)).sum().backward()
    opt.step()
    bob.release(model, through=torch.clone, reason="test")
    model.get()
    assert isinstance(opt.state[model.weight]["momentum_buffer"], PointerTensor)
    model.send(alice)
    opt.zero_grad()
    model(torch.ones(1, 2).send(alice)).sum().backward()
    with pytest.raises(PrivateValueError, match=r"Moving to alice refused.*private to bob"):
        opt.step()
