"""New tensors made inside the forward pass of a module at a worker are made at that worker.

Modules create tensors of their own: the zero state of an LSTM, positions of an embedding, a mask. While the
forward pass of a module at Bob runs, ``torch.zeros`` and its kind give pointers to Bob.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._device import _device_constructors

from fedpriv.pointers.tensor import PointerTensor, wrap
from fedpriv.pointers.worker import VirtualWorker

__all__ = ["follow_forward", "unfollow_forward"]


class _NewTensorsAt(TorchFunctionMode):
    """Send what the tensor constructors make to one worker."""

    def __init__(self, worker: VirtualWorker, module: nn.Module) -> None:
        super().__init__()
        self.worker = worker
        self.module = module
        self.constructors = _device_constructors()

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if func in self.constructors and type(result) is torch.Tensor:
            pointer = wrap(self.worker.store(result), self.worker)
            return pointer.requires_grad_(result.requires_grad)
        return result


_active: list[_NewTensorsAt] = []


def _enter(module: nn.Module, _args: Any) -> None:
    tensor: torch.Tensor | None = next(module.parameters(), None)
    if isinstance(tensor, PointerTensor):
        mode = _NewTensorsAt(tensor.location, module)
        mode.__enter__()  # type: ignore[no-untyped-call]
        _active.append(mode)


def _leave(module: nn.Module, _args: Any, _output: Any) -> None:
    if _active and _active[-1].module is module:
        _active.pop().__exit__(None, None, None)  # type: ignore[no-untyped-call]


def follow_forward(module: nn.Module) -> None:
    """Make new tensors in the forward pass of this module, or of its recurrent parts, remote.

    Parameters
    ----------
    module
        A module that was sent to a worker.
    """
    for part in module.modules():
        hooked = any(hook is _enter for hook in part._forward_pre_hooks.values())
        if (part is module or isinstance(part, nn.RNNBase)) and not hooked:
            part.register_forward_pre_hook(_enter, prepend=True)
            part.register_forward_hook(_leave, always_call=True)


def unfollow_forward(module: nn.Module) -> None:
    """Undo `follow_forward`.

    Parameters
    ----------
    module
        A module that came back.
    """
    for part in module.modules():
        for hooks, mine in ((part._forward_pre_hooks, _enter), (part._forward_hooks, _leave)):
            for key in [key for key, hook in hooks.items() if hook is mine]:
                del hooks[key]
                part._forward_hooks_always_called.pop(key, None)
