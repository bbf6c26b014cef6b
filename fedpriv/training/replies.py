"""The server's look at what comes back, before it goes into the record or the model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import nn

from fedpriv.engines.base import Engine, Fault, Reply, Request, Visit
from fedpriv.training.owners import Owners
from fedpriv.wire import Update


def check_reply(request: Request, reply: Reply, model: nn.Module) -> Update:
    """The update in `reply`, if it answers `request` about `model`.

    Raises
    ------
    ValueError
        If it answers another request, or holds other names, shapes or dtypes than the model, NaN, or
        whole numbers. Another model's *values* in the right shapes cannot be told from honest training.
    """
    if (reply.request, reply.client) != (request.id, request.client):
        raise ValueError(
            f"the answer must be that of {request.client!r} to the request {request.id!r}, got one of "
            f"{reply.client!r} to {reply.request!r}"
        )
    update = Update(
        kind=request.kind,
        tensors=reply.tensors,
        sender=request.client,
        round=request.round,
        num_samples=reply.num_samples,
    )
    Update.for_model(model, update)
    if request.tell_samples and reply.num_samples is None:
        raise ValueError("the answer must tell the number of samples, got none; the mean is weighted by it")
    for name, tensor in update.tensors.items():
        _check_like(name, tensor, request.state.get(name))
    return update


def _check_like(name: str, tensor: torch.Tensor, sent: torch.Tensor | None) -> None:
    if sent is None:
        raise ValueError(f"the update must hold what was sent, got {name!r} as well; leave it out")
    if tensor.shape != sent.shape or tensor.dtype != sent.dtype:
        raise ValueError(
            f"the update must hold {sent.dtype} of shape {tuple(sent.shape)} for {name!r}, got "
            f"{tensor.dtype} of shape {tuple(tensor.shape)}; train the model that was sent"
        )


def answers(
    engine: Engine, requests: Sequence[Request], owners: Owners, model: nn.Module
) -> Iterator[tuple[Update, Visit] | Fault]:
    """Ask, and sort what comes back: at most one update a client, and a fault for everything else."""
    pending = {request.client: request for request in requests}
    done: set[str] = set()
    for item in engine.ask(requests, owners):
        if isinstance(item, Fault):
            pending.pop(item.client, None)
            done.add(item.client)
            yield item
            continue
        client = item.reply.client
        request = pending.pop(client, None)
        if request is None:
            reason = "answered twice; the first counts" if client in done else "answered without a request"
            yield Fault(client=client, reason=reason, round=requests[0].round)
            continue
        done.add(client)
        try:
            update = check_reply(request, item.reply, model)
        except ValueError as error:
            yield Fault(client=client, reason=str(error), round=request.round, error=error)
        else:
            yield update, item
    for request in pending.values():
        yield Fault(client=request.client, reason="gave no answer; it disconnected", round=request.round)
