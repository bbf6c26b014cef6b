"""Updates that live on workers: handing them over, and asking their owners to make them public."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import cast

import torch

from fedpriv.pointers import PointerTensor, VirtualWorker, get, move, send
from fedpriv.wire import Tensors


def location_of(tensors: Iterable[torch.Tensor]) -> VirtualWorker | None:
    """The worker that holds `tensors`; None if they are here."""
    return next((tensor.location for tensor in tensors if isinstance(tensor, PointerTensor)), None)


def hand_over(tensor: torch.Tensor, to: VirtualWorker | None) -> torch.Tensor:
    """A copy of `tensor` at worker `to`, straight from where it is; the tensor itself if `to` is None.

    Its holder moves it as its owner does, so a private value stays private to the same owner there.
    """
    if to is None:
        return tensor
    if isinstance(tensor, PointerTensor):
        return move(tensor.detach().clone(), to, user=tensor.location)
    return send(tensor, to)


def fetch(tensors: Tensors) -> dict[str, torch.Tensor]:
    """The values of public pointers; local tensors as they are."""
    return {
        name: get(t.detach().clone()) if isinstance(t, PointerTensor) else t for name, t in tensors.items()
    }


def is_private(tensors: Iterable[torch.Tensor]) -> bool:
    """Whether any of `tensors` belongs to an owner who has not released it."""
    return any(isinstance(tensor, PointerTensor) and tensor.private for tensor in tensors)


def release_jointly(
    tensors: Tensors,
    owner: VirtualWorker,
    through: Callable[[dict[str, torch.Tensor]], Tensors],
    *,
    reason: str,
) -> dict[str, torch.Tensor]:
    """Apply `through` to the values of `tensors` on their owner's side; public pointers to the result.

    The tensors travel through the release as one vector, because a joint norm needs them all at once.
    """
    layout = {name: (tensor.shape, tensor.dtype) for name, tensor in tensors.items()}
    sizes = [shape.numel() for shape, _ in layout.values()]

    def unpack(flat: torch.Tensor) -> dict[str, torch.Tensor]:
        pieces = zip(layout.items(), flat.split(sizes), strict=True)
        return {name: piece.reshape(shape).to(dtype) for (name, (shape, dtype)), piece in pieces}

    def pack(values: Tensors) -> torch.Tensor:
        return torch.cat([values[name].detach().double().reshape(-1) for name in layout])

    def defended(flat: torch.Tensor) -> torch.Tensor:
        return pack(through(unpack(flat)))

    flat = cast("PointerTensor", pack(tensors))
    return unpack(owner.release(flat, through=defended, reason=reason))
