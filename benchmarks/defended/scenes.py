"""Digits, small networks, and what the server sees of Bob behind a defense."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from torch.nn.functional import cross_entropy

import fedpriv
from fedpriv.defenses import VariationalBottleneck
from fedpriv.defenses.pipeline import AnyDefense

SEEDS = range(200, 205)  # not looked at before; they draw data, model and defense
Data = tuple[torch.Tensor, torch.Tensor]
Make = Callable[[torch.Generator], nn.Module]


def seeded(seed: int) -> torch.Generator:
    """A fresh generator."""
    return torch.Generator().manual_seed(seed)


def network(*widths: int, pixels: int = 64) -> Make:
    """Fully connected, ReLU, ten classes."""
    return lambda generator: fedpriv.models.mlp([pixels, *widths, 10], generator=generator)


def lenet(activation: type[nn.Module]) -> Make:
    """The convolutional network of DLG's paper."""
    return lambda generator: fedpriv.victims.lenet_dlg((1, 8, 8), activation=activation, generator=generator)


def with_inside(inside: Callable[[], nn.Module], *, last: bool) -> Make:
    """64-128-64-10 with a layer of its own behind the first linear layer, or before the last one."""

    def make(generator: torch.Generator) -> nn.Module:
        first = [nn.Flatten(), nn.Linear(64, 128), nn.ReLU()]
        second = [nn.Linear(128, 64), nn.ReLU()]
        middle = [*second, inside()] if last else [inside(), *second]
        return fedpriv.models.initialize(nn.Sequential(*first, *middle, nn.Linear(64, 10)), generator).train()

    return make


MLP = network(128, 64)
PRECODE = with_inside(lambda: VariationalBottleneck(64, 16), last=True)
DROPOUT = with_inside(lambda: nn.Dropout(0.5), last=False)


def digits(count: int, seed: int, *, one_of_each: bool = False) -> Data:
    """Some handwritten digits, of different classes if `one_of_each`."""
    images, labels = fedpriv.data.digits()
    order = torch.randperm(len(images), generator=seeded(seed))
    if one_of_each:
        classes = torch.randperm(10, generator=seeded(seed + 1))[:count]
        order = torch.stack([order[labels[order] == c][0] for c in classes])
    return images[order[:count]], labels[order[:count]]


@dataclass(frozen=True, kw_only=True)
class Scene:
    """Bob's data, his model, and what acts on his updates."""

    defenses: tuple[AnyDefense, ...] = ()
    model: Make = MLP
    batch: int = 1
    rounds: int = 1
    dtype: torch.dtype = torch.float32
    one_of_each: bool = False

    def observe(self, seed: int, data: Data | None = None) -> tuple[list[fedpriv.Observation], Data]:
        """What the server sees, told how many samples there are; and the truth."""
        x, y = data or digits(self.batch, seed, one_of_each=self.one_of_each)
        x = x.to(self.dtype)
        model = self.model(seeded(seed + 500)).to(self.dtype)
        seen = answers(model, {"bob": (x, y)}, self.defenses, seed, rounds=self.rounds)
        return [with_knowledge(o, num_samples=len(x)) for o in seen], (x, y)


def answers(
    model: nn.Module,
    clients: dict[str, Data],
    defenses: Sequence[AnyDefense],
    seed: int,
    *,
    rounds: int = 1,
    sender: str = "bob",
) -> list[fedpriv.Observation]:
    """What the server sees of `sender` in rounds of FedSGD."""
    trainer = fedpriv.FederatedTrainer(
        model,
        cross_entropy,
        clients,
        lr=0.1,
        schedule="fedsgd",
        defenses=defenses,
        generator=seeded(seed + 900),
    )
    return trainer.run(rounds=rounds).transcript.observations(sender)


def with_knowledge(observation: fedpriv.Observation, **known: Any) -> fedpriv.Observation:
    """The same evidence for an attacker who was told something else."""
    return fedpriv.Observation(
        observation.model,
        observation.update,
        observation.loss_fn,
        replace(observation.knowledge, **known),
        state=observation.state,
    )


def ignorant(seen: list[fedpriv.Observation]) -> list[fedpriv.Observation]:
    """The first round for somebody who takes it for a plain gradient of limited precision."""
    return [with_knowledge(seen[0], mechanisms=())]
