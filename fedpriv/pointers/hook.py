"""`TorchHook`: puts ``send``, ``get``, ``move`` and ``location`` on torch, and takes them off again."""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable
from types import ModuleType, TracebackType
from typing import Any

import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook

from fedpriv.pointers import transfer
from fedpriv.pointers.module import module_location
from fedpriv.pointers.optimizers import state_follows_parameters

__all__ = ["TorchHook"]


class _Member:
    """A method or property that gives way to attributes of the same name on the object.

    A module may have a layer called ``move``; ``nn.Module`` finds layers only after class attributes, so this
    descriptor looks for them first.
    """

    def __init__(self, name: str, function: Callable[..., Any], *, is_property: bool = False) -> None:
        self.name = name
        self.function = function
        self.is_property = is_property
        self.__doc__ = function.__doc__

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        """Return the attribute of the instance, or else the bound function."""
        if instance is None:
            return self
        for table in ("_parameters", "_buffers", "_modules"):
            if self.name in instance.__dict__.get(table, ()):
                return instance.__dict__[table][self.name]
        return self.function(instance) if self.is_property else self.function.__get__(instance, owner)


def _local(tensor: torch.Tensor) -> None:
    """Say that a local tensor is at no worker."""


_MEMBERS: tuple[tuple[type, _Member], ...] = (
    (torch.Tensor, _Member("send", transfer.send)),
    (torch.Tensor, _Member("get", transfer.get)),
    (torch.Tensor, _Member("move", transfer.move)),
    (torch.Tensor, _Member("location", _local, is_property=True)),
    (torch.nn.Module, _Member("send", transfer.send)),
    (torch.nn.Module, _Member("get", transfer.get)),
    (torch.nn.Module, _Member("move", transfer.move)),
    (torch.nn.Module, _Member("copy", copy.deepcopy)),
    (torch.nn.Module, _Member("location", module_location, is_property=True)),
)

_hooks: weakref.WeakSet[TorchHook] = weakref.WeakSet()
_undo: list[Callable[[], object]] = []


class TorchHook:
    """Patch torch, so that ``tensor.send(bob)`` and ``model.get()`` exist and optimizer state follows.

    Making a second hook, as when a notebook cell runs again, changes nothing; torch is restored when no
    hook in use is left.

    Parameters
    ----------
    torch_module
        The module ``torch``, as in PySyft.

    Examples
    --------
    >>> from fedpriv.pointers import TorchHook, VirtualWorker
    >>> with TorchHook(torch) as hook:
    ...     bob = VirtualWorker(hook, id="bob")
    ...     x = torch.ones(2).send(bob)
    ...     print((x + x).get())
    tensor([2., 2.])
    >>> hasattr(torch.Tensor, "send")
    False
    """

    def __init__(self, torch_module: ModuleType = torch) -> None:
        if torch_module is not torch:
            raise ValueError(
                f"TorchHook expects the module torch, got {torch_module!r}; write TorchHook(torch)."
            )
        _hooks.add(self)
        if not _undo:
            _patch()

    def unhook(self) -> None:
        """Undo the patching of torch, unless another hook is in use; calling it again is fine."""
        _hooks.discard(self)
        if not _hooks:
            while _undo:
                _undo.pop()()

    def __enter__(self) -> TorchHook:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.unhook()


def _patch() -> None:
    for owner, member in _MEMBERS:
        _undo.append(_restorer(owner, member.name))
        setattr(owner, member.name, member)
    _undo.append(register_optimizer_step_pre_hook(state_follows_parameters).remove)


def _restorer(owner: type, name: str) -> Callable[[], object]:
    if name in vars(owner):
        before = vars(owner)[name]
        return lambda: setattr(owner, name, before)
    return lambda: delattr(owner, name)
