"""The evidence: normalised when it is made, and out of everyone's reach afterwards."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fedpriv.wire import Exchange, FrozenTensors, Knowledge, Observation, Transcript, Update

GRADIENT = {"weight": torch.tensor([[1.0, 2.0]]), "bias": torch.tensor([3.0])}


def observation(model=None, update=None, **settings):
    return Observation(
        model or nn.Linear(2, 1), copy.deepcopy(update or GRADIENT), F.mse_loss, Knowledge(**settings)
    )


def test_changing_the_model_afterwards_changes_nothing():
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 1))
    seen = Observation(model, [torch.ones_like(p) for p in model.parameters()], F.mse_loss)
    before = {name: tensor.clone() for name, tensor in seen.state.items()}
    model.eval()
    model[1].running_mean.fill_(7.0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(9.0)
            parameter.requires_grad_(False)
    assert all(torch.equal(seen.state[name], tensor) for name, tensor in before.items())
    assert seen.model.training
    assert all(parameter.requires_grad for parameter in seen.model.parameters())


def test_changing_the_gradient_afterwards_changes_nothing():
    gradient = copy.deepcopy(GRADIENT)
    seen = Observation(nn.Linear(2, 1), gradient, F.mse_loss)
    gradient["weight"].zero_()
    seen.gradient()["weight"].zero_()
    assert torch.equal(seen.update.tensors["weight"], GRADIENT["weight"])


def test_changing_what_a_transcript_was_made_of_changes_nothing():
    model = nn.Linear(2, 1)
    sent = model.state_dict()  # shares memory with the model
    update = Update(kind="gradient", tensors=GRADIENT, sender="bob")
    transcript = Transcript([Exchange(sent=sent, update=update)], model=model, loss_fn=F.mse_loss)
    before = model.weight.detach().clone()
    with torch.no_grad():
        model.weight.zero_()
    model.eval()
    (seen,) = transcript.observations("bob")
    assert torch.equal(seen.state["weight"], before)
    assert transcript.model.training


def test_nothing_can_be_assigned():
    seen = observation()
    for value, name in [(seen, "state"), (seen, "model"), (Transcript, "clients")]:
        if value is Transcript:
            value = Transcript([], model=nn.Linear(1, 1), loss_fn=F.mse_loss)
        with pytest.raises(AttributeError):
            setattr(value, name, None)
    with pytest.raises(dataclasses.FrozenInstanceError):
        seen.update.kind = "parameters"
    with pytest.raises(TypeError):
        seen.update.tensors["weight"] = torch.zeros(1, 2)


def test_frozen_tensors_are_shared_not_copied_again():
    first = FrozenTensors({"a": torch.zeros(3)})
    assert FrozenTensors(first)["a"] is first["a"]


@pytest.mark.parametrize(
    "given",
    [
        GRADIENT,
        list(GRADIENT.values()),
        tuple(GRADIENT.values()),
        iter(GRADIENT.values()),
        dict(reversed(GRADIENT.items())),
        FrozenTensors(GRADIENT),
        Update(kind="gradient", tensors=GRADIENT),
    ],
    ids=["dict", "list", "tuple", "iterator", "other order", "frozen", "update"],
)
def test_every_form_of_a_gradient_means_the_same(given):
    seen = Observation(nn.Linear(2, 1), given, F.mse_loss)
    assert seen.update.kind == "gradient"
    assert all(torch.equal(seen.gradient()[name], tensor) for name, tensor in GRADIENT.items())


def test_gradients_of_autograd_fit_also_with_frozen_layers():
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    model[0].requires_grad_(False)
    F.mse_loss(model(torch.ones(1, 2)), torch.ones(1, 1)).backward()
    with_none = {name: p.grad for name, p in model.named_parameters()}
    trainable = [p.grad for p in model.parameters() if p.grad is not None]
    for given in (with_none, list(with_none.values()), trainable):
        assert list(Observation(model, given, F.mse_loss).update.tensors) == ["1.weight", "1.bias"]


def test_non_contiguous_and_scalar_tensors_keep_their_values():
    model = nn.Linear(2, 3)
    model.scale = nn.Parameter(torch.tensor(2.0))
    weight = torch.arange(6.0).reshape(2, 3).T
    assert not weight.is_contiguous()
    seen = Observation(
        model, {"weight": weight, "bias": torch.ones(6)[::2], "scale": torch.tensor(5.0)}, F.mse_loss
    )
    assert torch.equal(seen.gradient()["weight"], weight)
    assert seen.gradient()["scale"].shape == ()


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_returned_parameters_become_the_gradient(dtype):
    model = nn.Linear(2, 1).to(dtype)
    after = {n: p.detach() - 0.5 * GRADIENT[n].to(dtype) for n, p in model.named_parameters()}
    seen = Observation(
        model, Update(kind="parameters", tensors=after), F.mse_loss, Knowledge(learning_rate=0.5)
    )
    for name, value in seen.gradient().items():
        assert torch.allclose(value.double(), GRADIENT[name].double(), rtol=8 * torch.finfo(dtype).eps)


def test_a_gradient_of_half_precision_parameters_does_not_overflow():
    model = nn.Linear(1, 1).half()
    after = {n: torch.full_like(p, 200.0) for n, p in model.named_parameters()}
    update = Update(kind="parameters", tensors=after)
    seen = Observation(model, update, F.mse_loss, Knowledge(learning_rate=1e-4))
    assert all(bool(torch.isfinite(tensor).all()) for tensor in seen.gradient().values())


def exchange(sender, *, contributors=(), value=1.0, round=0):
    update = Update(
        kind="gradient",
        tensors={name: value * tensor for name, tensor in GRADIENT.items()},
        sender=sender,
        contributors=contributors,
        round=round,
    )
    return Exchange(sent=nn.Linear(2, 1).state_dict(), update=update)


def test_updates_of_a_client_come_in_order():
    visits = [exchange(who, value=i, round=i) for i, who in enumerate(["bob", "alice", "bob"])]
    transcript = Transcript(visits, model=nn.Linear(2, 1), loss_fn=F.mse_loss)
    assert transcript.senders == transcript.clients == ("bob", "alice")
    assert [float(u.tensors["bias"]) for u in transcript.updates(client="bob")] == [0.0, 6.0]
    assert [o.update.round for o in transcript.observations("bob")] == [0, 2]
    assert len(transcript.updates()) == len(transcript) == len(list(transcript)) == 3


def test_a_pooled_client_left_nothing_of_its_own():
    visits = [exchange("aggregator", contributors=("bob", "alice"))]
    transcript = Transcript(visits, model=nn.Linear(2, 1), loss_fn=F.mse_loss)
    assert transcript.senders == ("aggregator",)
    assert transcript.clients == ("bob", "alice")
    assert transcript.updates(client="bob") == []
    assert len(transcript.updates(client="aggregator")) == 1
    assert transcript.updates()[0].is_aggregate
    with pytest.raises(
        ValueError, match=r"client must be one of \['aggregator', 'bob', 'alice'\], got 'eve'"
    ):
        transcript.updates(client="eve")
