"""A worker: a place where tensors live, reached through requests that name them by id."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import torch

from fedpriv.pointers.errors import DeadPointerError
from fedpriv.pointers.privacy import PUBLIC, Owners, PrivacyGuard
from fedpriv.pointers.protocol import Described, Ref, new_id
from fedpriv.pointers.release import Release, release

if TYPE_CHECKING:
    from fedpriv.pointers.hook import TorchHook
    from fedpriv.pointers.tensor import PointerTensor

__all__ = ["VirtualWorker"]


class VirtualWorker:
    """A place where tensors live, in this process but behind a narrow door.

    Everything that pointers ask of a worker goes through `store`, `execute`, `fetch`, `transfer` and
    `delete`, whose arguments are ids and plain values, so another transport can take their place.

    Parameters
    ----------
    hook
        The `TorchHook` in use, as in PySyft; may be None, the free functions need none.
    id
        Name of the worker, used in messages. Two workers of one name are still two places.
    allowed_operations
        Reductions whose result on a private tensor is public, such as ``{"aten.mean"}``. They count only on
        a tensor exactly as its owner sent it, and are only as safe as this policy.
    min_group
        Least number of elements behind each number released by an allowed operation.

    Attributes
    ----------
    messages : int
        Requests received so far.
    bytes_received, bytes_sent : int
        Payload of the tensors that came in and went out.
    releases : list of Release
        What this worker, as an owner, has made public.

    Examples
    --------
    >>> from fedpriv.pointers import send
    >>> bob = VirtualWorker(id="bob")
    >>> x = send(torch.ones(2, 2), bob)
    >>> len(bob._objects), (x + x).get().sum().item()
    (1, 8.0)
    """

    def __init__(
        self,
        hook: TorchHook | None = None,
        id: str = "worker",
        *,
        allowed_operations: Iterable[str] = (),
        min_group: int = 10,
    ) -> None:
        if hook is not None and not hasattr(hook, "unhook"):
            raise ValueError(
                f"VirtualWorker expects a TorchHook or None first, got {hook!r}; "
                "write VirtualWorker(hook, id='bob')."
            )
        if not isinstance(id, str) or not id:
            raise ValueError(f"A worker's id is a non-empty string, got {id!r}; write id='bob'.")
        self.id = id
        self._hook = weakref.ref(hook) if hook is not None else None
        self._objects: dict[int, torch.Tensor] = {}
        self._guard = PrivacyGuard(id, self._objects, allowed_operations, min_group)
        self.messages = 0
        self.bytes_received = 0
        self.bytes_sent = 0
        self.releases: list[Release] = []

    def __repr__(self) -> str:
        return f"<VirtualWorker id:{self.id} #objects:{len(self._objects)}>"

    @property
    def hook(self) -> TorchHook | None:
        """The hook this worker was made with, if it still exists."""
        return self._hook() if self._hook is not None else None

    def store(self, tensor: torch.Tensor, *, private: bool = False) -> Described:
        """Keep a copy of a dense tensor, public or belonging to this worker alone; say where it is."""
        owners: Owners = frozenset({self}) if private else PUBLIC
        return self._receive(tensor.detach().clone(), owners, original=private)

    def _receive(self, tensor: torch.Tensor, owners: Owners, *, original: bool = False) -> Described:
        self.messages += 1
        self.bytes_received += tensor.numel() * tensor.element_size()
        return self._keep(tensor, owners, original=original)

    def _keep(self, tensor: torch.Tensor, owners: Owners, *, original: bool = False) -> Described:
        id = new_id()
        if tensor.layout is not torch.strided:
            raise ValueError(
                f"Workers hold dense tensors, got layout {tensor.layout}; convert with .to_dense() first."
            )
        self._objects[id] = tensor
        if owners:
            self._guard.mark(id, owners, original=original)
        return Described(
            id, tensor.shape, tensor.stride(), int(tensor.storage_offset()), tensor.dtype, tensor.device
        )

    def _lookup(self, ref: Ref) -> torch.Tensor:
        try:
            return self._objects[ref.id]
        except KeyError:
            raise DeadPointerError(
                f"{self.id} no longer holds object {ref.id}: it was moved away or taken with .get(). Use the "
                "pointer or tensor returned by that call, or take a copy first with pointer.copy()."
            ) from None

    def execute(self, op: Any, args: Any, kwargs: Mapping[str, Any]) -> Any:
        """Run one ATen operation on tensors held here.

        Parameters
        ----------
        op
            The operation; a remote transport would send ``op.name()``.
        args, kwargs
            Its arguments, every tensor replaced by its `Ref` (lists of them allowed).

        Returns
        -------
        Any
            The result, every new tensor replaced by its `Described`, every operand by its `Ref`.
        """
        self.messages += 1
        inputs: dict[int, torch.Tensor] = {}
        real = [self._resolve(item, inputs) for item in args]
        real_kwargs = {key: self._resolve(item, inputs) for key, item in kwargs.items()} if kwargs else {}
        owners = self._guard.owners(inputs) if self._guard.labels else PUBLIC
        if owners:
            result, owners = self._guard.execute(op, real, real_kwargs, inputs, owners)
        else:
            result = op(*real, **real_kwargs)
        return self._describe(result, inputs, owners)

    def _resolve(self, item: Any, inputs: dict[int, torch.Tensor]) -> Any:
        kind = type(item)
        if kind is Ref:
            tensor = inputs[item.id] = self._lookup(item)
            return tensor
        if kind is list or kind is tuple:
            return kind(self._resolve(element, inputs) for element in item)
        return item

    def _describe(self, result: Any, inputs: dict[int, torch.Tensor], owners: Owners) -> Any:
        if isinstance(result, torch.Tensor):
            for id, tensor in inputs.items():
                if tensor is result:
                    return Ref(id)
            return self._keep(result, owners)
        if isinstance(result, (list, tuple)):
            return tuple(self._describe(item, inputs, owners) for item in result)
        return result

    def fetch(self, ref: Ref, *, user: VirtualWorker | None = None) -> torch.Tensor:
        """Hand a copy of a value to the local side.

        Parameters
        ----------
        ref
            Address of the value.
        user
            The owner, when the owner itself asks for a private value.

        Returns
        -------
        Tensor
            A copy.

        Raises
        ------
        PrivateValueError
            If the value is private and ``user`` does not own it alone.
        """
        tensor = self._lookup(ref)
        self._guard.check_exit(ref, user, "Handing out a value")
        self.messages += 1
        self.bytes_sent += tensor.numel() * tensor.element_size()
        return tensor.clone()

    def transfer(self, ref: Ref, to: VirtualWorker, *, user: VirtualWorker | None = None) -> Described:
        """Hand a value to another worker directly and forget it here.

        Parameters
        ----------
        ref
            Address of the value.
        to
            The worker that gets it.
        user
            The owner, when the owner itself moves a private value; it stays private at ``to``.

        Returns
        -------
        Described
            Address and layout at ``to``.
        """
        tensor = self._lookup(ref)
        self._guard.check_exit(ref, user, f"Moving to {to.id}")
        self.messages += 1
        self.bytes_sent += tensor.numel() * tensor.element_size()
        answer = to._receive(tensor.clone(), self._guard.owners([ref.id]))
        self.delete(ref)
        return answer

    def delete(self, ref: Ref) -> None:
        """Forget an object; unknown ids are fine, since a value may have left with ``.get()``."""
        if self._objects.pop(ref.id, None) is not None and self._guard.labels:
            self._guard.forget(ref.id)

    def clear_objects(self) -> None:
        """Forget everything, as when a worker restarts; pointers to it become dead."""
        for id in list(self._objects):
            self.delete(Ref(id))

    def release(
        self,
        target: PointerTensor | torch.nn.Module,
        *,
        through: Callable[..., Any],
        reason: str = "",
        reference: Mapping[str, torch.Tensor] | None = None,
    ) -> Any:
        """Make a value of this owner public, as far as it is this owner's.

        See `fedpriv.pointers.release.release` for the parameters.

        Examples
        --------
        >>> from fedpriv.pointers import send
        >>> bob = VirtualWorker(id="bob")
        >>> x = send(torch.tensor([1.0, 2.0, 3.0]), bob, private=True)
        >>> bob.release(x, through=torch.mean, reason="class average").get()
        tensor(2.)
        """
        return release(self, target, through=through, reason=reason, reference=reference)
