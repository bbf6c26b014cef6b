"""The trainer's checks of what it was given; every message says what to do."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import nn

from fedpriv.defenses import Pipeline
from fedpriv.defenses.places import is_private
from fedpriv.training.clients import Client
from fedpriv.training.schedules import Schedule
from fedpriv.wire.observation import LossFn


def check_rate(lr: float) -> None:
    """Raise a ``ValueError`` unless `lr` is positive and finite."""
    if not (isinstance(lr, int | float) and math.isfinite(lr) and lr > 0):
        raise ValueError(f"lr must be a positive finite number, got {lr!r}; 0.1 suits the tutorial")


def check_count(name: str, value: int) -> None:
    """Raise a ``ValueError`` unless `value` is a whole number of 1 or more."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} must be a whole number of 1 or more, got {value!r}")


def check_model(model: nn.Module, loss_fn: LossFn) -> None:
    """Raise a ``ValueError`` unless there is something to train and a loss to train it with."""
    if not isinstance(model, nn.Module):
        raise ValueError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    if not any(p.requires_grad for p in model.parameters()):
        raise ValueError("model must have at least one trainable parameter, got none; is everything frozen?")
    if not callable(loss_fn):
        raise ValueError(f"loss_fn must be callable as loss_fn(outputs, targets), got {loss_fn!r}")


def check_together(
    clients: Sequence[Client],
    clients_per_round: int,
    schedule: Schedule,
    pipeline: Pipeline,
    local_steps: int,
) -> None:
    """Raise a ``ValueError`` where settings that are fine alone do not go together."""
    n = len(clients)
    check_count("clients_per_round", clients_per_round)
    if clients_per_round > n:
        raise ValueError(
            f"clients_per_round must be at most the number of clients, {n}, got {clients_per_round}"
        )
    if schedule.kind == "gradient" and local_steps != 1:
        raise ValueError(
            f"{schedule} asks for one gradient, so local_steps must be 1, got {local_steps}; use "
            "schedule=FedAvg() for several local steps"
        )
    if not pipeline.on_client and pipeline.aggregator is None:
        for client in clients:
            if is_private([client.inputs, client.targets]):
                raise ValueError(
                    f"the data of client {client.name!r} are private, so nothing computed from them may "
                    "leave undefended; pass defenses=[...] or send the data without private=True"
                )
    if pipeline.aggregator is None:
        return
    name = type(pipeline.aggregator).__name__
    if not schedule.pools:
        raise ValueError(
            f"{name} needs clients that all answer the same model, but {schedule} sends each client the "
            "model that the one before returned, so there is nothing to average; use schedule=FedAvg() or "
            "FedSGD()"
        )
    if clients_per_round < 2:
        raise ValueError(
            f"{name} needs at least 2 clients in a round, got {clients_per_round}; a mean over one client "
            f"hides nothing: add clients or remove {name}"
        )
