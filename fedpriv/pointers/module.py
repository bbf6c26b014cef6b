"""Modules that change place: the very `Parameter` objects become pointers and turn back.

``torch.utils.swap_tensors`` exchanges the contents of two tensor objects while both keep their identity, so
whatever holds a parameter (an optimizer, a tied layer, a list) follows it to the worker and back.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeVar, cast

import torch
from torch import nn

from fedpriv.pointers.errors import MixedLocationsError
from fedpriv.pointers.factories import follow_forward, unfollow_forward
from fedpriv.pointers.protocol import RemoteRef
from fedpriv.pointers.tensor import PointerTensor, wrap
from fedpriv.pointers.worker import VirtualWorker

__all__ = ["get_module", "module_location", "move_module", "send_module"]

M = TypeVar("M", bound=nn.Module)
# Attributes of a pointer that describe the pointer, not the parameter.
_OWN = frozenset({"_remote", "_local_class", "_is_param"})


def _tensors(module: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    yield from module.named_parameters()
    yield from module.named_buffers()


def module_location(module: nn.Module) -> VirtualWorker | None:
    """Say where a module is.

    Parameters
    ----------
    module
        Any module.

    Returns
    -------
    VirtualWorker or None
        The worker that holds all its parameters and buffers; None if they are local or there are none.

    Raises
    ------
    MixedLocationsError
        If they are in several places.
    """
    return _common_place(module, list(_tensors(module)))


def _common_place(module: nn.Module, tensors: list[tuple[str, torch.Tensor]]) -> VirtualWorker | None:
    places = {item.location if isinstance(item, PointerTensor) else None for _, item in tensors}
    if len(places) > 1:
        names = sorted("local" if place is None else place.id for place in places)
        raise MixedLocationsError(
            f"The parameters and buffers of this {type(module).__name__} are in several places: "
            f"{' and '.join(names)}; bring its parts together with .move(worker) or .get()."
        )
    return places.pop() if places else None


def send_module(module: M, worker: VirtualWorker, *, private: bool = False) -> M:
    """Put the parameters, buffers and gradients of a module on a worker, in place.

    Parameters
    ----------
    module
        A local module; one that is at ``worker`` already is left as it is.
    worker
        Where to.
    private
        Whether its values may leave only by release or to the worker.

    Returns
    -------
    Module
        The same module.
    """
    tensors = list(_tensors(module))
    place = _common_place(module, tensors)
    if place is worker:
        return module
    if place is not None:
        raise MixedLocationsError(
            f"This {type(module).__name__} is at {place.id}, send expects a local module; use "
            f"model.move({worker.id}), or model.get() first."
        )
    _check_swappable(module, tensors, "sent")
    for part in module.modules():
        if isinstance(part, nn.RNNBase):
            # Weak references to the parameters, which swapping refuses.
            part._flat_weight_refs = [None] * len(part._flat_weights_names)
    for _, tensor in tensors:
        gradient, tensor.grad = tensor.grad, None
        pointer = wrap(worker.store(tensor, private=private), worker)
        pointer.__dict__.update(tensor.__dict__)
        pointer.__dict__["_local_class"] = type(tensor)
        if isinstance(tensor, nn.Parameter):
            pointer.__dict__["_is_param"] = True
        pointer.requires_grad_(tensor.requires_grad)
        _swap(tensor, pointer)
        if gradient is not None:
            tensor.grad = wrap(worker.store(gradient, private=private), worker)
    follow_forward(module)
    return module


def get_module(module: M, *, user: VirtualWorker | None = None) -> M:
    """Bring a module back, in place, with its gradients.

    Parameters
    ----------
    module
        A module at a worker; a local one is left as it is.
    user
        The owner, when the owner itself takes private values.

    Returns
    -------
    Module
        The same module.

    Raises
    ------
    PrivateValueError
        If a value or gradient is private and ``user`` does not own it alone; the module stays then.
    """
    tensors = list(_tensors(module))
    if _common_place(module, tensors) is None:
        return module
    pointers = cast("list[tuple[str, PointerTensor]]", tensors)
    for name, pointer in pointers:
        for title, item in ((name, pointer), (f"the gradient of {name}", pointer.grad)):
            if isinstance(item, PointerTensor):
                item.location._guard.check_exit(item._remote.ref, user, f"Handing out {title}")
                item.location._lookup(item._remote.ref)
    _check_swappable(module, pointers, "fetched")
    for _, pointer in pointers:
        gradient, pointer.grad = cast("PointerTensor | None", pointer.grad), None
        local_gradient = None if gradient is None else gradient.get(user=user)
        value = pointer.location.fetch(pointer._remote.ref, user=user)
        local = _as_local(value, pointer)
        _swap(pointer, local)
        pointer.grad = local_gradient
    for part in module.modules():
        if isinstance(part, nn.RNNBase):
            part._init_flat_weights()
    unfollow_forward(module)
    return module


def _swap(tensor: torch.Tensor, other: torch.Tensor) -> None:
    """Exchange the contents of two tensor objects, but leave the user's gradient hooks on the first one."""
    for attribute in ("_backward_hooks", "_post_accumulate_grad_hooks"):
        hooks = getattr(tensor, attribute)
        if hooks:
            setattr(other, attribute, hooks)
    torch.utils.swap_tensors(tensor, other)


def _as_local(value: torch.Tensor, pointer: PointerTensor) -> torch.Tensor:
    """Give a fetched value the class and the attributes that the tensor had before it was sent."""
    attributes = {key: item for key, item in pointer.__dict__.items() if key not in _OWN}
    fallback: type[torch.Tensor] = nn.Parameter if pointer.__dict__.get("_is_param") else torch.Tensor
    kind: type[torch.Tensor] = pointer.__dict__.get("_local_class", fallback)
    if kind is torch.Tensor:
        local = value.requires_grad_(pointer.requires_grad)
    else:
        local = torch.Tensor._make_subclass(kind, value, pointer.requires_grad)
    local.__dict__.update(attributes)
    return local


def move_module(module: M, worker: VirtualWorker, *, user: VirtualWorker | None = None) -> M:
    """Move a module from its worker to another one, in place and without passing the local side.

    Parameters
    ----------
    module
        A module at a worker.
    worker
        Where to.
    user
        The owner, when the owner itself moves private values.

    Returns
    -------
    Module
        The same module.
    """
    tensors = list(_tensors(module))
    source = _common_place(module, tensors)
    if source is None and tensors:
        raise MixedLocationsError(
            f"move expects a module at a worker, this one is local; use model.send({worker.id})."
        )
    if source is None or source is worker:
        return module
    pointers: list[PointerTensor] = []
    for _, tensor in tensors:
        pointers.extend(item for item in (tensor, tensor.grad) if isinstance(item, PointerTensor))
    for pointer in pointers:
        source._guard.check_exit(pointer._remote.ref, user, f"Moving to {worker.id}")
    for pointer in pointers:
        described = source.transfer(pointer._remote.ref, worker, user=user)
        pointer._remote = RemoteRef(worker, described.id)
    return module


def _check_swappable(module: nn.Module, tensors: Any, action: str) -> None:
    """Refuse before anything has changed, if a tensor cannot change place."""
    for name, tensor in tensors:
        if nn.parameter.is_lazy(tensor):
            raise ValueError(
                f"{name} of this {type(module).__name__} has no shape yet, so it cannot be {action}; run the "
                "lazy module once on a local batch first."
            )
        count = tensor._use_count()
        # A graph that is done leaves one reference behind, from the node that accumulates the gradient.
        if count > (2 if tensor.is_leaf and tensor.requires_grad else 1):
            raise RuntimeError(
                f"{name} of this {type(module).__name__} cannot be {action}: an earlier result that still "
                "awaits backward() holds it. Call backward() on that result, delete it, or compute it under "
                "torch.no_grad()."
            )
