"""Oracle: modules at a worker train exactly as they do here."""
# mypy: disable-error-code="attr-defined, operator, union-attr, arg-type, call-overload, var-annotated"
# (the hook adds methods to torch while the tests run)

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fedpriv.pointers import MixedLocationsError, NotLocalError, PointerTensor, TorchHook, get, move, send


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(7, 8)
        self.position = nn.Embedding(5, 8)
        self.block = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.out = nn.Linear(8, 3)

    def forward(self, tokens):
        places = torch.arange(tokens.shape[1])
        mask = nn.Transformer.generate_square_subsequent_mask(tokens.shape[1])
        x = self.block(self.embed(tokens) + self.position(places), src_mask=mask)
        return self.out(x.mean(1))


class Recurrent(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.rnn = kind(3, 4, num_layers=2, batch_first=True, bidirectional=True)
        self.out = nn.Linear(8, 3)

    def forward(self, x):
        return self.out(self.rnn(x)[0][:, -1])


def _mlp():
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.4), nn.Linear(8, 3))


def _conv():
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.GELU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(16, 3),
    )


CASES = {
    "mlp": (_mlp, lambda g: torch.randn(6, 4, generator=g)),
    "conv": (_conv, lambda g: torch.randn(6, 1, 4, 4, generator=g)),
    "lstm": (lambda: Recurrent(nn.LSTM), lambda g: torch.randn(6, 5, 3, generator=g)),
    "gru": (lambda: Recurrent(nn.GRU), lambda g: torch.randn(6, 5, 3, generator=g)),
    "attention": (Attention, lambda g: torch.randint(7, (6, 5), generator=g)),
}


def _train(make, x, y, places):
    """Train three rounds, visiting each place once a round; None is here."""
    torch.manual_seed(1)
    model = make()
    opt = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    losses = []
    for round in range(3):
        for place in places:
            here = (x, y) if place is None else (x.send(place), y.send(place))
            if place is not None:
                model.send(place)
            torch.manual_seed(round)
            opt.zero_grad()
            loss = F.cross_entropy(model(here[0]), here[1])
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            opt.step()
            losses.append(loss.item())
            if place is not None:
                model.get()
    model.eval()
    return losses, model.state_dict(), model(x).detach(), [p.grad for p in model.parameters()]


@pytest.mark.parametrize(("make", "inputs"), CASES.values(), ids=CASES)
def test_module_trains_as_in_plain_torch(bob, alice, make, inputs):
    x = inputs(torch.Generator().manual_seed(0))
    y = torch.tensor([0, 1, 2, 0, 1, 2])
    losses, state, outputs, gradients = _train(make, x, y, [bob, alice])
    plain_losses, plain_state, plain_outputs, plain_gradients = _train(make, x, y, [None, None])
    assert losses == plain_losses
    assert state.keys() == plain_state.keys()
    assert all(
        type(state[name]) is torch.Tensor and torch.equal(state[name], plain_state[name]) for name in state
    )
    assert torch.equal(outputs, plain_outputs)
    assert all(torch.equal(a, b) for a, b in zip(gradients, plain_gradients, strict=True))


@pytest.mark.parametrize(("make", "inputs"), CASES.values(), ids=CASES)
def test_module_trains_on_private_data_until_released(bob, make, inputs):
    x = inputs(torch.Generator().manual_seed(0))
    y = torch.tensor([0, 1, 2, 0, 1, 2])
    states = []
    for remote in (True, False):
        torch.manual_seed(1)
        model = make()
        opt = torch.optim.SGD(model.parameters(), lr=0.05)
        a, b = (x.send(bob, private=True), y.send(bob, private=True)) if remote else (x, y)
        if remote:
            model.send(bob)
        torch.manual_seed(0)
        F.cross_entropy(model(a), b).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        opt.step()
        if remote:
            assert all(p.private for p in model.parameters())
            bob.release(model, through=torch.clone)
            model.get()
        states.append(model.state_dict())
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


@pytest.mark.parametrize(("make", "inputs"), CASES.values(), ids=CASES)
def test_module_predicts_remotely_in_eval_mode(bob, make, inputs):
    x = inputs(torch.Generator().manual_seed(0))
    model = make().eval()
    with torch.no_grad():
        expected = model(x)
        answer = model.send(bob)(x.send(bob))
    assert torch.allclose(answer.get(), expected, atol=1e-6)


def test_parameters_keep_identity_class_and_attributes(bob):
    model = nn.Linear(2, 1)
    weight = model.weight
    weight.tag = "mine"
    calls = []
    weight.register_hook(lambda gradient: calls.append(tuple(gradient.shape)))
    model.send(bob)
    assert model.weight is weight
    assert isinstance(weight, PointerTensor)
    assert isinstance(weight, nn.Parameter)
    assert "location=bob" in repr(weight)
    assert repr(model) == "Linear(in_features=2, out_features=1, bias=True)"
    model(torch.ones(3, 2).send(bob)).sum().backward()
    assert calls == [(1, 2)]
    model.get()
    assert type(weight) is nn.Parameter
    assert weight.tag == "mine"
    assert vars(weight) == {"tag": "mine"}
    model(torch.ones(3, 2)).sum().backward()
    assert calls == [(1, 2), (1, 2)]
    assert not model._forward_hooks
    assert not model._forward_pre_hooks


def test_tied_and_frozen_parameters(bob):
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    model[0].bias.requires_grad_(False)
    model.send(bob)
    assert model[1].weight is model[0].weight
    assert not model[0].bias.requires_grad
    assert len(bob._objects) == 3
    model(torch.ones(1, 3).send(bob)).sum().backward()
    model.get()
    assert model[0].bias.grad is None
    assert model[0].weight.grad.shape == (3, 3)
    assert len(bob._objects) == 0


def test_module_and_gradients_move_between_workers_directly(bob, alice):
    model = nn.Linear(2, 1)
    before = model.weight.detach().clone()
    model.send(bob)
    model(torch.ones(1, 2).send(bob)).sum().backward()
    sent = bob.messages
    assert model.location is bob
    assert model.move(alice) is model
    assert bob.messages - sent == 4
    assert model.location is alice
    assert model.weight.grad.location is alice
    model(torch.ones(1, 2).send(alice)).sum().backward()
    model.get()
    assert model.location is None
    assert model.weight.grad.tolist() == [[2, 2]]
    assert torch.equal(model.weight, before)


def test_average_of_two_models_on_a_third_worker(bob, alice):
    models = [nn.Linear(2, 1).send(place) for place in (bob, alice)]
    expected = sum(model.copy().get().weight.detach() for model in models) / 2
    for model in models:
        model.move(bob)
    with torch.no_grad():
        mean = (models[0].weight.data + models[1].weight.data) / 2
    assert torch.equal(mean.get(), expected)


def test_deepcopy_and_state_dict_while_remote(bob):
    model = _mlp().send(bob)
    twin = copy.deepcopy(model)
    with torch.no_grad():
        twin[0].weight.add_(1)
    state = model.state_dict()
    assert all(value.location is bob for value in state.values())
    twin.load_state_dict(state)
    assert torch.equal(twin.get()[0].weight, model.get()[0].weight)
    with pytest.raises(RuntimeError, match="local tensor"):
        _mlp().send(bob).load_state_dict(model.state_dict())
    with pytest.raises(NotLocalError, match=r"Pickling .* at bob; call .get\(\) first"):
        torch.save(_mlp().send(bob).state_dict(), "/dev/null")


def test_wrong_places_of_modules_are_named(bob, alice):
    model = nn.Linear(2, 1).send(bob)
    assert model.send(bob) is model
    with pytest.raises(MixedLocationsError, match=r"Linear is at bob.*model.move\(alice\)"):
        model.send(alice)
    model.get()
    assert model.get() is model
    with pytest.raises(MixedLocationsError, match="this one is local"):
        model.move(alice)
    model.weight = nn.Parameter(model.weight.detach().clone())
    half = nn.Sequential(nn.Linear(2, 2).send(bob), nn.Linear(2, 2))
    with pytest.raises(MixedLocationsError, match="bob and local"):
        half.get()
    with pytest.raises(ValueError, match="LazyLinear has no shape yet"):
        nn.LazyLinear(2).send(bob)


def test_get_refuses_while_a_graph_waits_and_changes_nothing(bob):
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1)).send(bob)
    prediction = model(torch.ones(1, 2).send(bob))
    with pytest.raises(RuntimeError, match=r"1.weight .* still awaits backward\(\)"):
        model.get()
    assert model.location is bob
    del prediction
    assert model.get().location is None


def test_free_functions_need_no_hook(hook):
    hook.unhook()
    from fedpriv.pointers import VirtualWorker

    bob, alice = VirtualWorker(id="bob"), VirtualWorker(id="alice")
    model = send(nn.Linear(2, 1), bob)
    x = send(torch.ones(1, 2), bob)
    move(model, alice)
    answer = model(move(x, alice))
    assert torch.equal(get(answer), get(model)(torch.ones(1, 2)).detach())
    TorchHook(torch).unhook()


def test_forward_that_fails_leaves_no_trace(bob):
    model = nn.Linear(2, 1).send(bob)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        model(torch.ones(1, 3).send(bob))
    assert type(torch.zeros(2)) is torch.Tensor
