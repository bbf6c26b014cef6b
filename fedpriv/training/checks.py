"""The trainer's checks of what it was given; every message says what to do."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from fedpriv.defenses import Pipeline
from fedpriv.defenses.places import is_private
from fedpriv.engines.base import Engine
from fedpriv.training.clients import Client
from fedpriv.training.owners import Owners
from fedpriv.training.schedules import Schedule
from fedpriv.training.settings import check_count
from fedpriv.wire.observation import LossFn


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


def check_answers(min_answers: int | None, clients_per_round: int) -> None:
    """Raise a ``ValueError`` unless `min_answers` is None or at most the number of clients in a round."""
    if min_answers is None:
        return
    check_count("min_answers", min_answers)
    if min_answers > clients_per_round:
        raise ValueError(
            f"min_answers must be at most the number of clients in a round, {clients_per_round}, got "
            f"{min_answers}"
        )


def check_engine(engine: Engine, owners: Owners) -> None:
    """Raise a ``ValueError`` where the engine cannot do what the local one can."""
    if not isinstance(engine, Engine):
        raise ValueError(f"engine must be an Engine such as LocalEngine(), got {engine!r}")
    if engine.in_process:
        return
    if owners.pipeline.aggregator is not None:
        raise ValueError(
            f"{type(owners.pipeline.aggregator).__name__} stands between clients and server, but the "
            f"{engine.name} engine hands every answer straight to the server; use the local engine"
        )
    for client in owners.clients.values():
        if client.worker is not None:
            raise ValueError(
                f"the {engine.name} engine takes the data of its clients as tensors here, got pointers to "
                f"{client.worker.id!r} for {client.name!r}; use the local engine"
            )
