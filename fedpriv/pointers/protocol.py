"""What crosses between a pointer and its worker: addresses, descriptions and nothing else.

A request is ``worker.execute(op, args, kwargs)`` where every tensor in the arguments is replaced by its
`Ref`. The answer has the same structure as the result of the operation, with a `Described` for every new
tensor and the `Ref` of the operand for every operand that the operation returned (in-place operations).
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

if TYPE_CHECKING:
    from fedpriv.pointers.worker import VirtualWorker

__all__ = ["Described", "Ref", "RemoteRef", "new_id"]

_ids = itertools.count(1)


def new_id() -> int:
    """Return an id that no object of any worker has had in this process.

    Returns
    -------
    int
        A fresh positive number.

    Examples
    --------
    >>> new_id() < new_id()
    True
    """
    return next(_ids)


class Ref:
    """Placeholder for the tensor with this id in a worker's object store."""

    __slots__ = ("id",)

    def __init__(self, id: int) -> None:
        self.id = id

    def __repr__(self) -> str:
        return f"Ref({self.id})"


class Described(NamedTuple):
    """All that the local side learns of a remote tensor: where it is and how it is laid out."""

    id: int
    shape: torch.Size
    stride: tuple[int, ...]
    offset: int
    dtype: torch.dtype
    device: torch.device


class RemoteRef:
    """Ownership of one remote object: when the last `RemoteRef` to it dies, the worker frees it.

    The tensor itself cannot carry a weak reference (``torch.utils.swap_tensors`` refuses those), so the
    pointer holds this small object instead.

    Parameters
    ----------
    worker
        Where the object lives.
    id
        Its key in the worker's object store.
    """

    __slots__ = ("__weakref__", "ref", "worker")

    def __init__(self, worker: VirtualWorker, id: int) -> None:
        self.worker = worker
        self.ref = Ref(id)

    def __del__(self, _hasattr: Any = hasattr) -> None:
        # At interpreter exit or after a failed constructor the attributes may be missing.
        if _hasattr(self, "ref"):
            self.worker.delete(self.ref)
