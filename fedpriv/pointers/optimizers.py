"""The state of an optimizer (momentum, Adam's moments) follows its parameters from worker to worker."""

from __future__ import annotations

from typing import Any

import torch

from fedpriv.pointers.tensor import PointerTensor
from fedpriv.pointers.transfer import move, send
from fedpriv.pointers.worker import VirtualWorker

__all__ = ["state_follows_parameters"]

# Counters that torch's optimizers keep as 0-d tensors but use as Python numbers; they stay local.
_COUNTERS = frozenset({"step", "mu_product", "eta"})


def state_follows_parameters(optimizer: torch.optim.Optimizer, _args: Any, _kwargs: Any) -> None:
    """Move every state tensor to the place of its parameter; runs before each step.

    Parameters
    ----------
    optimizer
        Any optimizer; its ``state`` is changed in place.
    _args, _kwargs
        Arguments of ``step``, unused.
    """
    for parameter, state in optimizer.state.items():
        if not isinstance(parameter, torch.Tensor):
            continue
        place = parameter.location if type(parameter) is PointerTensor else None
        for key, value in state.items():
            if key not in _COUNTERS and (isinstance(value, (torch.Tensor, list))):
                state[key] = _at(value, place)


def _at(value: Any, place: VirtualWorker | None) -> Any:
    if isinstance(value, list):
        return [_at(item, place) for item in value]
    if not isinstance(value, torch.Tensor):
        return value
    pointer = value if type(value) is PointerTensor else None
    if (pointer.location if pointer is not None else None) is place:
        return value
    if pointer is None:
        return send(value, place) if place is not None else value
    return move(pointer, place) if place is not None else pointer.get()
