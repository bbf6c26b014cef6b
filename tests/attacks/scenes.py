"""Clients, their updates, and plain oracles, shared by the tests of the attacks."""

from __future__ import annotations

from itertools import permutations

import torch
from torch import nn

import fedpriv
from fedpriv import Knowledge, Observation
from fedpriv.losses import squared_error


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=seeded(seed), dtype=torch.float64).to(dtype)


def gradient_of(model, loss_fn, x, y):
    """What the client sends: None for frozen layers."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    return torch.autograd.grad(loss_fn(model(x), y), parameters)


def observe(model, loss_fn, x, y, knowledge=None):
    return Observation(model, gradient_of(model, loss_fn, x, y), loss_fn, knowledge or Knowledge())


def visits(x, y, *, rounds, seed=0, loss_fn=squared_error, lr=None, outputs=1):
    """What the server saw of bob, who trains a linear model in turn with alice."""
    d = x.shape[1]
    model = fedpriv.models.linear(d, outputs, generator=seeded(seed)).to(x.dtype)
    alice = (normal(2, d, seed=seed + 500, dtype=x.dtype), normal(2, outputs, seed=seed + 501, dtype=x.dtype))
    trainer = fedpriv.FederatedTrainer(
        model, loss_fn, {"bob": (x, y), "alice": alice}, lr=lr or 0.5 / (d + 1), schedule="sequential"
    )
    return trainer.run(rounds=rounds).transcript


def random_visits(x, y, *, rounds, seed=0, loss_fn=squared_error):
    """Gradients at random models: well conditioned, unlike a training path."""
    seen = []
    for index in range(rounds):
        model = nn.Linear(x.shape[1], y.shape[1]).to(x.dtype)
        with torch.no_grad():
            for offset, parameter in enumerate(model.parameters()):
                parameter.copy_(normal(*parameter.shape, seed=1000 * seed + 2 * index + offset))
        seen.append(observe(model, loss_fn, x, y))
    return seen


def with_knowledge(observations, **settings):
    """The same evidence, had the adversary known this as well."""
    values = {**observations[0].knowledge.to_json(), **settings}
    return [
        Observation(o.model, o.update, o.loss_fn, Knowledge.from_json(values), state=o.state)
        for o in observations
    ]


def max_abs_error(found, truth):
    """Of the best matching, by trying all; infinite if the numbers differ."""
    if found is None or found.shape != truth.shape:
        return float("inf")
    orders = permutations(range(len(truth)))
    return min(float((found[list(order)].double() - truth.double()).abs().max()) for order in orders)


def snapshot(observation):
    """All that an attack could spoil, as plain copies."""
    model = observation.model
    return (
        {n: t.detach().clone() for n, t in model.state_dict().items()},
        {
            n: (p.requires_grad, None if p.grad is None else p.grad.clone())
            for n, p in model.named_parameters()
        },
        {n: (m.training, len(m._forward_pre_hooks)) for n, m in model.named_modules()},
        {n: t.clone() for n, t in observation.state.items()},
        {n: t.clone() for n, t in observation.update.tensors.items()},
    )


def same(a, b):
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and torch.equal(a, b)
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b
