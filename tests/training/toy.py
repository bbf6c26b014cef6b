"""The tutorial's data and plain torch loops as oracles."""

from __future__ import annotations

import copy

import torch
from torch import nn

from fedpriv.losses import squared_error

X = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
Y = torch.tensor([[0.0], [0.0], [1.0], [1.0]])
CLIENTS = {"bob": (X[:2], Y[:2]), "alice": (X[2:], Y[2:])}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def linear(seed: int = 0, features: int = 2, dtype: torch.dtype = torch.float32) -> nn.Linear:
    model = nn.Linear(features, 1, dtype=dtype)
    generator = seeded(seed)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=generator))
    return model


def line(weight: float, bias: float = 0.0) -> nn.Linear:
    """``f(x) = weight * x + bias`` in one dimension."""
    model = nn.Linear(1, 1)
    with torch.no_grad():
        model.weight.fill_(weight)
        model.bias.fill_(bias)
    return model


def plain_loop(model, clients, *, lr, rounds, local_steps=1, loss_fn=squared_error):
    """The tutorial: one optimizer, and the model goes from client to client."""
    model = copy.deepcopy(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    losses = []
    for _ in range(rounds):
        for x, y in clients.values():
            for step in range(local_steps):
                optimizer.zero_grad()
                loss = loss_fn(model(x), y)
                loss.backward()
                optimizer.step()
                if step == 0:
                    losses.append(loss.item())
    return model, losses


def same_values(a: nn.Module, b: nn.Module) -> bool:
    return all(
        torch.equal(p, q) for p, q in zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    )
