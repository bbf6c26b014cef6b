"""Release: the owner makes a function of its private values public, on its own side."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from fedpriv.pointers.errors import PrivateValueError
from fedpriv.pointers.protocol import RemoteRef

if TYPE_CHECKING:
    from fedpriv.pointers.tensor import PointerTensor
    from fedpriv.pointers.worker import VirtualWorker

__all__ = ["Release", "release"]


@dataclass(frozen=True)
class Release:
    """Record of one release.

    Attributes
    ----------
    owner
        Id of the worker that released.
    names
        What was released: parameter names, or ``("value",)`` for a tensor.
    through
        Text form of the function or defense.
    reason
        As given by the owner.
    report
        What the defense reported; None for a plain function.
    """

    owner: str
    names: tuple[str, ...]
    through: str
    reason: str
    report: object | None


def release(
    owner: VirtualWorker,
    target: PointerTensor | torch.nn.Module,
    *,
    through: Callable[..., Any],
    reason: str = "",
    reference: Mapping[str, torch.Tensor] | None = None,
) -> Any:
    """Apply ``through`` where the private values live and drop the owner's claim on the result.

    A value computed from several owners' data becomes public when each of them has released it.

    Parameters
    ----------
    owner
        The worker that owns the values; call `VirtualWorker.release` on it.
    target
        A pointer, or a module whose parameters are pointers. A module is released in place: its parameters
        and private buffers, all of them jointly; gradients that are still private are dropped.
    through
        Either a function of one tensor (applied to each tensor of a module), or a defense: a callable with
        a parameter named ``context``, which takes a dict of tensors and returns ``(dict, report)``.
    reason
        Kept in ``owner.releases``.
    reference
        For a module and a defense: the public values before training, by name. The defense then acts on
        the difference, which is added to them; names that are missing count as zero.

    Returns
    -------
    PointerTensor or Module
        A new public pointer on the same worker, or the module itself.

    Raises
    ------
    PrivateValueError
        If ``owner`` owns none of the private values.
    """
    if not callable(through):
        raise ValueError(
            f"release expects through= a function of a tensor or a defense, got {through!r}; "
            "to release a value as it is, say so with through=torch.clone."
        )
    if isinstance(target, torch.nn.Module):
        _release_module(owner, target, through, reason, reference)
        return target
    pointer = _require_pointer(target)
    if reference is not None:
        raise ValueError("release expects reference= only with a module; subtract before, for a tensor.")
    _check_authority(owner, {"value": pointer})
    values, report = _apply(through, {"value": _value(pointer)})
    released = _expect_tensor("value", values.get("value"))
    place = pointer.location
    described = place._keep(
        released.detach().clone(), place._guard.owners([pointer.id_at_location]) - {owner}
    )
    _record(owner, ("value",), through, reason, report)
    return type(pointer)(RemoteRef(place, described.id), described)


def _release_module(
    owner: VirtualWorker,
    module: torch.nn.Module,
    through: Callable[..., Any],
    reason: str,
    reference: Mapping[str, torch.Tensor] | None,
) -> None:
    pointers = {name: _require_pointer(item) for name, item in module.named_parameters()}
    buffers = {name: _require_pointer(item) for name, item in module.named_buffers()}
    pointers.update((name, item) for name, item in buffers.items() if item.private)
    _check_authority(owner, pointers)
    values = {name: _value(pointer) for name, pointer in pointers.items()}
    base = {name: reference[name] for name in values if name in reference} if reference is not None else {}
    shifted = {name: value - base[name] if name in base else value for name, value in values.items()}
    results, report = _apply(through, shifted)
    fresh: dict[str, torch.Tensor] = {}
    for name, value in values.items():
        result = _expect_tensor(name, results.get(name))
        if result.shape != value.shape:
            raise ValueError(
                f"release of a module keeps shapes: {name} has shape {tuple(value.shape)}, the function "
                f"returned {tuple(result.shape)}; release single pointers for summaries."
            )
        fresh[name] = value.copy_(result + base[name] if name in base else result)
    for name, pointer in pointers.items():
        place = pointer.location
        rest = place._guard.owners([pointer.id_at_location]) - {owner}
        pointer._remote = RemoteRef(place, place._keep(fresh[name], rest).id)
        if pointer.grad is not None and _require_pointer(pointer.grad).private:
            pointer.grad = None
    _record(owner, tuple(values), through, reason, report)


def _apply(
    through: Callable[..., Any], values: dict[str, torch.Tensor]
) -> tuple[Mapping[str, Any], object | None]:
    copies = {name: value.clone() for name, value in values.items()}
    if not _is_defense(through):
        return {name: through(value) for name, value in copies.items()}, None
    result, report = through(copies)
    return result, report


def _is_defense(through: Callable[..., Any]) -> bool:
    try:
        return "context" in inspect.signature(through).parameters
    except (TypeError, ValueError):  # built-in functions such as torch.mean have no signature
        return False


def _value(pointer: PointerTensor) -> torch.Tensor:
    """Return a copy of the value with the layout that the pointer shows; stays on the owner's side."""
    return pointer.location._lookup(pointer._remote.ref).clone()


def _require_pointer(item: Any) -> PointerTensor:
    from fedpriv.pointers.tensor import PointerTensor

    if not isinstance(item, PointerTensor):
        raise ValueError(
            f"release expects pointers or a module that is at a worker, got a local {type(item).__name__}; "
            "local values need no release."
        )
    return item


def _expect_tensor(name: str, value: Any) -> torch.Tensor:
    if not isinstance(value, torch.Tensor):
        raise ValueError(
            f"The function given to release must return a tensor for {name!r}, got {type(value).__name__}."
        )
    return value


def _check_authority(owner: VirtualWorker, pointers: Mapping[str, PointerTensor]) -> None:
    for name, pointer in pointers.items():
        owners = pointer.location._guard.owners([pointer.id_at_location])
        if owner not in owners and (owners or pointer.location is not owner):
            whose = " and ".join(sorted(item.id for item in owners)) or f"{pointer.location.id} (public)"
            raise PrivateValueError(
                f"{owner.id} cannot release {name}: it belongs to {whose}. Only the owner's own worker "
                "object can release a value."
            )


def _record(
    owner: VirtualWorker,
    names: tuple[str, ...],
    through: Callable[..., Any],
    reason: str,
    report: object | None,
) -> None:
    text = getattr(through, "__name__", None) or repr(through)
    owner.releases.append(Release(owner.id, names, text, reason, report))
