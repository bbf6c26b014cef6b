"""Pointers: tensors that live on workers, in the manner of PySyft 0.2, on current torch.

``tensor.send(bob)`` copies a tensor to Bob's worker and gives a `PointerTensor`; every operation on pointers
runs where the values are, and ``pointer.get()`` brings a value back. ``model.send(bob)`` does the same to all
parameters and buffers of a module, in place.
"""

from __future__ import annotations

from fedpriv.pointers.errors import (
    DeadPointerError,
    MixedLocationsError,
    NotLocalError,
    PrivateValueError,
    RemoteCallError,
)
from fedpriv.pointers.hook import TorchHook
from fedpriv.pointers.release import Release
from fedpriv.pointers.tensor import PointerTensor
from fedpriv.pointers.transfer import get, move, send
from fedpriv.pointers.worker import VirtualWorker

__all__ = [
    "DeadPointerError",
    "MixedLocationsError",
    "NotLocalError",
    "PointerTensor",
    "PrivateValueError",
    "Release",
    "RemoteCallError",
    "TorchHook",
    "VirtualWorker",
    "get",
    "move",
    "send",
]
