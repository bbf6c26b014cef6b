"""`PointerTensor`: a tensor without values, whose every operation runs where the values are.

The class is a wrapper subclass: torch knows its shape, strides, dtype and device, so autograd, modules,
losses and optimizers work locally; ``__torch_dispatch__`` forwards each ATen call that autograd makes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn, cast

import torch

from fedpriv.pointers.errors import MixedLocationsError, NotLocalError
from fedpriv.pointers.opaque import Opaque
from fedpriv.pointers.protocol import Described, Ref, RemoteRef

if TYPE_CHECKING:
    from fedpriv.pointers.worker import VirtualWorker

__all__ = ["PointerTensor", "wrap"]

# Local operands that stand for Python values: indices as in x[[0, 2]], numbers as in x[0] = 5.0.
_TAKES_INDICES = frozenset({"aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_"})
_TAKES_NUMBERS = frozenset({"aten::fill_", "aten::copy_", "aten::where"}) | _TAKES_INDICES
_REPLACES_STORAGE = frozenset(
    id(getattr(packet, overload))
    for packet in (torch.ops.aten.resize_, torch.ops.aten.resize_as_, torch.ops.aten.set_)
    for overload in packet.overloads()
)


class PointerTensor(Opaque, torch.Tensor):
    """A tensor that lives on a worker; made by ``tensor.send(worker)``, never directly.

    It has a shape, strides, a dtype and an autograd history, but no values: printing it contacts nobody,
    and reading it takes `get`. Arithmetic, indexing, views, in-place operations, modules and optimizers work
    on pointers to the same worker and give pointers to that worker.

    Examples
    --------
    >>> from fedpriv.pointers import VirtualWorker, send
    >>> bob = VirtualWorker(id="bob")
    >>> x = send(torch.tensor([1.0, 2.0], requires_grad=True), bob)
    >>> y = (x * x).sum()
    >>> y.backward()
    >>> y.get(), x.grad.get()
    (tensor(5.), tensor([2., 4.]))
    """

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]
    _remote: RemoteRef

    @staticmethod
    def __new__(cls, remote: RemoteRef, described: Described) -> PointerTensor:
        """Wrap the description of a remote tensor."""
        pointer = torch.Tensor._make_wrapper_subclass(
            cls,
            described.shape,
            strides=described.stride,
            storage_offset=described.offset,
            dtype=described.dtype,
            device=described.device,
        )
        pointer._remote = remote
        return pointer

    def __init__(self, remote: RemoteRef, described: Described) -> None:
        """Nothing is left to do after ``__new__``."""

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Forward one ATen call to the worker that holds the operands."""
        operands: dict[int, torch.Tensor] = {}
        remote_args = [_outgoing(item, operands) for item in args]
        remote_kwargs = {key: _outgoing(item, operands) for key, item in kwargs.items()} if kwargs else {}
        worker = _single_worker(func, args, operands)
        if id(func) in _REPLACES_STORAGE:
            raise NotLocalError(
                f"{func} would give a pointer on {worker.id} other storage, which pointers do not support; "
                "use copy_(), or assign the new pointer."
            )
        result = worker.execute(func, remote_args, remote_kwargs)
        if type(result) is Described:
            return PointerTensor(RemoteRef(worker, result.id), result)
        answer = _incoming(result, worker, operands)
        if type(result) is Ref and torch.Tag.inplace_view in func.tags:
            # The worker has changed the shape; repeat that on the local description.
            with torch._C._DisableTorchDispatch():
                func(*args, **(kwargs or {}))
        return answer

    # -- where and what -------------------------------------------------------------------------------

    @property
    def location(self) -> VirtualWorker:
        """The worker that holds the value."""
        return self._remote.worker

    @property
    def id_at_location(self) -> int:
        """Key of the value in the worker's object store."""
        return self._remote.ref.id

    @property
    def private(self) -> bool:
        """Whether the value may leave its worker only by release or to its owner."""
        return bool(self._remote.worker._guard.owners([self._remote.ref.id]))

    def __repr__(self) -> str:  # type: ignore[override]
        extra = ", requires_grad=True" if self.requires_grad else ""
        return (
            f"PointerTensor(shape={tuple(self.shape)}, dtype={self.dtype}, location={self.location.id}, "
            f"id={self.id_at_location}{', private=True' if self.private else ''}{extra})"
        )

    def __format__(self, format_spec: str) -> str:
        if not format_spec:
            return repr(self)
        return format(self.item() if self.dim() == 0 else repr(self), format_spec)

    # -- moving ---------------------------------------------------------------------------------------

    def get(self, *, user: VirtualWorker | None = None) -> torch.Tensor:
        """Take the value back, removing it from the worker; see `fedpriv.pointers.get`."""
        from fedpriv.pointers.transfer import get

        return get(self, user=user)

    def move(self, worker: VirtualWorker, *, user: VirtualWorker | None = None) -> PointerTensor:
        """Hand the value to another worker directly; see `fedpriv.pointers.move`."""
        from fedpriv.pointers.transfer import move

        return move(self, worker, user=user)

    def send(self, worker: VirtualWorker, **_: Any) -> NoReturn:
        """Refuse: the value is at a worker already."""
        raise MixedLocationsError(
            f"send expects a local tensor, this one is at {self.location.id}; "
            f"use pointer.move({getattr(worker, 'id', 'worker')})."
        )

    def copy(self) -> PointerTensor:
        """Copy the value on its worker; the copy is a leaf, and as private as the original."""
        return cast("PointerTensor", self.detach().clone().requires_grad_(self.requires_grad))

    def __deepcopy__(self, memo: dict[int, Any]) -> PointerTensor:
        if not self.is_leaf:
            raise RuntimeError(
                "Only leaf pointers support deepcopy, this one has an autograd history; use pointer.copy()."
            )
        if id(self) in memo:
            return cast("PointerTensor", memo[id(self)])
        twin = memo[id(self)] = self.copy()
        twin.__dict__.update({key: item for key, item in self.__dict__.items() if key != "_remote"})
        if self.grad is not None:
            twin.grad = self.grad.detach().clone()
        return twin

    @property
    def data(self) -> torch.Tensor:
        """A pointer to the same remote storage, without autograd history."""
        return self.detach()

    @data.setter
    def data(self, value: torch.Tensor) -> None:
        if not isinstance(value, PointerTensor):
            raise MixedLocationsError(
                f"pointer.data is at {self.location.id}, the new value is local; send it to "
                f"{self.location.id} first."
            )
        torch.Tensor.data.__set__(self, value)  # type: ignore[attr-defined]
        self._remote = value._remote


def wrap(described: Described, worker: VirtualWorker) -> PointerTensor:
    """Make the first pointer to an object just stored on a worker."""
    return PointerTensor(RemoteRef(worker, described.id), described)


def _outgoing(item: Any, operands: dict[int, torch.Tensor]) -> Any:
    """Replace pointers by their addresses; a local tensor is noted under id 0, which no object has."""
    kind = type(item)
    if kind is PointerTensor:
        ref = item._remote.ref
        operands[ref.id] = item
        return ref
    if kind is list or kind is tuple:
        return kind([_outgoing(element, operands) for element in item])
    if isinstance(item, torch.Tensor):
        operands[0] = item
    return item


def _single_worker(op: Any, args: Any, operands: dict[int, torch.Tensor]) -> VirtualWorker:
    """Return the worker that holds all operands, or say who is where."""
    if 0 in operands:
        local = operands.pop(0)
        worker = next(iter(cast("dict[int, PointerTensor]", operands).values()))._remote.worker
        if not _only_literals(op, args):
            raise MixedLocationsError(
                f"{op} got operands in two places: a pointer to {worker.id} and a local tensor of shape "
                f"{tuple(local.shape)}. Send the local tensor with tensor.send({worker.id}), or get the "
                "pointer. Python numbers may be mixed with pointers."
            )
    pointers = iter(cast("dict[int, PointerTensor]", operands).values())
    worker = next(pointers)._remote.worker
    for pointer in pointers:
        if pointer._remote.worker is not worker:
            other = pointer._remote.worker
            note = " (two workers of the same name)" if other.id == worker.id else ""
            raise MixedLocationsError(
                f"{op} got operands in two places: {worker.id} and {other.id}{note}. "
                f"Bring them together first, for example with pointer.move({worker.id})."
            )
    return worker


def _only_literals(op: Any, args: Any) -> bool:
    """Tell whether the local tensors in a call are numbers or indices, never what the call writes to."""
    name = op._schema.name
    # Formulas of derivatives wrap their constants as 0-d tensors; the user has no hand in them.
    in_backward = torch._C._current_graph_task_id() != -1 and not op._schema.is_mutable
    if not in_backward and (name not in _TAKES_NUMBERS or type(args[0]) is not PointerTensor):
        return False
    for item in args:
        for element in item if isinstance(item, (list, tuple)) else (item,):
            if not isinstance(element, torch.Tensor) or type(element) is PointerTensor or element.dim() == 0:
                continue
            if name not in _TAKES_INDICES or element.is_floating_point():
                return False
    return True


def _incoming(answer: Any, worker: VirtualWorker, operands: dict[int, torch.Tensor]) -> Any:
    """Turn descriptions into new pointers and addresses into the pointers that were passed in."""
    kind = type(answer)
    if kind is Described:
        return PointerTensor(RemoteRef(worker, answer.id), answer)
    if kind is Ref:
        return operands[answer.id]
    if kind is tuple:
        return tuple(_incoming(item, worker, operands) for item in answer)
    return answer
