"""`send`, `get` and `move` for tensors and modules; they need no `TorchHook`."""

from __future__ import annotations

from typing import TypeVar, cast, overload

import torch

from fedpriv.pointers.errors import MixedLocationsError, PrivateValueError
from fedpriv.pointers.module import get_module, move_module, send_module
from fedpriv.pointers.tensor import PointerTensor, wrap
from fedpriv.pointers.worker import VirtualWorker

__all__ = ["get", "move", "send"]

M = TypeVar("M", bound=torch.nn.Module)


def _check_worker(worker: object, action: str) -> None:
    if not isinstance(worker, VirtualWorker):
        raise ValueError(
            f"{action} expects a VirtualWorker, got {worker!r}; make one with VirtualWorker(hook, id='bob')."
        )


@overload
def send(target: M, worker: VirtualWorker, *, private: bool = False) -> M: ...
@overload
def send(target: torch.Tensor, worker: VirtualWorker, *, private: bool = False) -> PointerTensor: ...
def send(
    target: torch.Tensor | torch.nn.Module, worker: VirtualWorker, *, private: bool = False
) -> PointerTensor | torch.nn.Module:
    """Copy a tensor to a worker, or put a module there.

    Parameters
    ----------
    target
        A tensor of any shape, or a module. A module is sent in place: the parameter objects stay the same,
        so optimizers made before go on working.
    worker
        Where to.
    private
        Whether the value, and all that is computed from it, may leave the worker only by
        ``worker.release`` or to the worker itself.

    Returns
    -------
    PointerTensor or Module
        A new leaf that requires a gradient if ``target`` did, or the module itself.

    Examples
    --------
    >>> from fedpriv.pointers import VirtualWorker, get, send
    >>> bob = VirtualWorker(id="bob")
    >>> x = send(torch.arange(3.0), bob)
    >>> x.shape, x.location
    (torch.Size([3]), <VirtualWorker id:bob #objects:1>)
    >>> get(x + 1)
    tensor([1., 2., 3.])
    """
    _check_worker(worker, "send")
    if isinstance(target, torch.nn.Module):
        return send_module(target, worker, private=private)
    if not isinstance(target, torch.Tensor):
        raise ValueError(f"send expects a tensor or a module, got {type(target).__name__}.")
    if isinstance(target, PointerTensor):
        target.send(worker)
    pointer = wrap(worker.store(target, private=private), worker).requires_grad_(target.requires_grad)
    if target.is_leaf and target.grad is not None:
        pointer.grad = wrap(worker.store(target.grad, private=private), worker)
    return cast("PointerTensor", pointer)


@overload
def get(target: M, *, user: VirtualWorker | None = None) -> M: ...
@overload
def get(target: torch.Tensor, *, user: VirtualWorker | None = None) -> torch.Tensor: ...
def get(
    target: torch.Tensor | torch.nn.Module, *, user: VirtualWorker | None = None
) -> torch.Tensor | torch.nn.Module:
    """Take a value back from its worker and remove it there.

    Parameters
    ----------
    target
        A pointer, or a module at a worker (got in place, with its gradients).
    user
        The owner, when the owner itself takes a private value.

    Returns
    -------
    Tensor or Module
        A local tensor: a leaf keeps ``requires_grad`` and its public gradient, anything else comes back
        detached. Or the module itself.

    Raises
    ------
    PrivateValueError
        If a value is private and ``user`` does not own it alone; nothing has changed then.
    """
    if isinstance(target, torch.nn.Module):
        return get_module(target, user=user)
    pointer = _require_pointer(target, "get")
    worker = pointer.location
    value = worker.fetch(pointer._remote.ref, user=user)
    if pointer.is_leaf and pointer.requires_grad:
        value.requires_grad_()
        gradient = pointer.grad
        if isinstance(gradient, PointerTensor) and not gradient.private:
            value.grad = gradient.location.fetch(gradient._remote.ref)
    worker.delete(pointer._remote.ref)
    return value


@overload
def move(target: M, worker: VirtualWorker, *, user: VirtualWorker | None = None) -> M: ...
@overload
def move(
    target: torch.Tensor, worker: VirtualWorker, *, user: VirtualWorker | None = None
) -> PointerTensor: ...
def move(
    target: torch.Tensor | torch.nn.Module, worker: VirtualWorker, *, user: VirtualWorker | None = None
) -> PointerTensor | torch.nn.Module:
    """Hand a value from its worker to another one; it does not pass the local side.

    Parameters
    ----------
    target
        A pointer, or a module at a worker (moved in place).
    worker
        Where to.
    user
        The owner, when the owner itself moves a private value, which stays private to the owner.

    Returns
    -------
    PointerTensor or Module
        The new pointer, a leaf (the old pointer is dead); or the module itself.

    Examples
    --------
    >>> from fedpriv.pointers import VirtualWorker, move, send
    >>> bob, alice = VirtualWorker(id="bob"), VirtualWorker(id="alice")
    >>> x = move(send(torch.ones(2), bob), alice)
    >>> x.location.id, len(bob._objects)
    ('alice', 0)
    """
    _check_worker(worker, "move")
    if isinstance(target, torch.nn.Module):
        return move_module(target, worker, user=user)
    pointer = _require_pointer(target, "move")
    source = pointer.location
    if source is worker:
        return pointer
    gradient = pointer.grad if pointer.is_leaf else None
    moved = wrap(source.transfer(pointer._remote.ref, worker, user=user), worker)
    moved.requires_grad_(pointer.requires_grad)
    if isinstance(gradient, PointerTensor):
        try:
            moved.grad = wrap(gradient.location.transfer(gradient._remote.ref, worker, user=user), worker)
        except PrivateValueError:
            moved.grad = None  # a public value may have a private gradient, which stays where it is
    return moved


def _require_pointer(target: object, action: str) -> PointerTensor:
    if isinstance(target, PointerTensor):
        return target
    if isinstance(target, torch.Tensor):
        raise MixedLocationsError(
            f"{action} expects a pointer, this tensor is local; send it first with tensor.send(worker)."
        )
    raise ValueError(f"{action} expects a pointer or a module, got {type(target).__name__}.")
