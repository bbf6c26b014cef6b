"""Which values are private to whom, on one worker, and what may be done with them.

Every object carries the set of its owners (empty means public). Whatever is computed from an object
inherits its owners; an in-place write passes them on to everything that shares the written storage. Owners
are compared as objects: holding the owner's `VirtualWorker` is the authority to read or release its values.

What this guards and what it does not: values never leave through the pointer interface. Shapes, dtypes, the
names of the operations, whether a call failed and how long it took are visible to the local side, always. All
workers live in one Python process, so code that reaches into a worker's object store by hand is not stopped.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch

from fedpriv.pointers.errors import PrivateValueError, RemoteCallError
from fedpriv.pointers.operations import Operation, operation
from fedpriv.pointers.protocol import Ref

if TYPE_CHECKING:
    from fedpriv.pointers.worker import VirtualWorker

__all__ = ["Owners", "PrivacyGuard"]

Owners = frozenset["VirtualWorker"]
PUBLIC: Owners = frozenset()
_REDUCTIONS = frozenset({"aten.mean", "aten.sum", "aten.var", "aten.std"})


def _storage(tensor: torch.Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def _names(owners: Owners) -> str:
    return " and ".join(sorted(owner.id for owner in owners))


class PrivacyGuard:
    """Labels of the objects of one worker, and the rules that keep private values in.

    Parameters
    ----------
    place
        Id of the worker whose objects these are, for messages.
    objects
        The object store of the worker (shared, not copied).
    allowed_operations
        Names of reductions whose result is public, out of ``aten.mean aten.sum aten.var aten.std``. They
        count only on a value exactly as its owner sent it: a slice, a masked or a changed copy would let
        the caller isolate one element. This is only as safe as the policy: the owner must be content that
        anyone reads these statistics of the whole tensor.
    min_group
        Least number of elements that each released number must summarise; at least 2.
    """

    def __init__(
        self, place: str, objects: dict[int, torch.Tensor], allowed_operations: Iterable[str], min_group: int
    ) -> None:
        allowed = frozenset(allowed_operations)
        if not allowed <= _REDUCTIONS:
            raise ValueError(
                f"allowed_operations may hold {sorted(_REDUCTIONS)}, got {sorted(allowed - _REDUCTIONS)}; "
                "release anything else with worker.release(pointer, through=function)."
            )
        if min_group < 2:
            raise ValueError(
                f"min_group must be at least 2, got {min_group}; a statistic of one element is the element."
            )
        self.place = place
        self.objects = objects
        self.allowed = frozenset(name.replace(".", "::") for name in allowed)
        self.min_group = min_group
        self.labels: dict[int, Owners] = {}
        self.originals: set[int] = set()

    def owners(self, ids: Iterable[int]) -> Owners:
        """Return the owners of these objects together."""
        labels = [self.labels[id] for id in ids if id in self.labels]
        return PUBLIC.union(*labels) if labels else PUBLIC

    def mark(self, id: int, owners: Owners, *, original: bool = False) -> None:
        """Label a new object; ``original`` when it is exactly what its owner sent."""
        if owners:
            self.labels[id] = owners
            if original:
                self.originals.add(id)

    def forget(self, id: int) -> None:
        """Drop the label of an object that is gone."""
        self.labels.pop(id, None)
        self.originals.discard(id)

    def check_exit(self, ref: Ref, user: VirtualWorker | None, action: str) -> None:
        """Refuse ``action`` unless the object is public or belongs to ``user`` alone."""
        owners = self.owners([ref.id])
        if owners - {user}:
            raise self._refusal(owners, action)

    def _refusal(self, owners: Owners, action: str) -> PrivateValueError:
        first = min(owner.id for owner in owners)
        return PrivateValueError(
            f"{action} refused: the value on {self.place} is private to {_names(owners)}, or was computed "
            f"from private values. The owner can release it with {first}.release(pointer, through=function), "
            f"or read it with pointer.get(user={first})."
        )

    def execute(
        self, op: Any, args: Any, kwargs: Any, inputs: dict[int, torch.Tensor], owners: Owners
    ) -> tuple[Any, Owners]:
        """Run an operation with private operands.

        Parameters
        ----------
        op
            The ATen operation.
        args, kwargs
            Its arguments, with real tensors.
        inputs
            The operands by object id.
        owners
            The owners of all operands together.

        Returns
        -------
        result
            What the operation returned.
        owners
            Owners of the new tensors in the result.
        """
        facts = operation(op)
        if facts.reads_out:
            raise self._refusal(owners, f"Reading a number with {op}")
        if facts.shapes_from_values and self._shape_reveals(facts, args, inputs):
            raise self._refusal(owners, f"{op}, the shape of whose result shows values,")
        try:
            result = op(*args, **kwargs)
        except Exception as error:
            # The text of the error may quote values, such as an index that is out of range.
            kind = type(error).__name__
            raise RemoteCallError(
                f"{op} failed on {self.place} with {kind}. The operands are private to {_names(owners)}, so "
                "the details stay there; check shapes and dtypes, or try the call on public data."
            ) from None
        self._taint(facts.written(args, kwargs), inputs, owners)
        if facts.shape_only or self._is_allowed(facts, args, inputs, result):
            return result, PUBLIC
        return result, owners

    def _shape_reveals(self, facts: Operation, args: Any, inputs: dict[int, torch.Tensor]) -> bool:
        if facts.name != "aten::index":
            return True
        # Integer indices give a shape known in advance, and so does a public mask.
        private = [tensor for id, tensor in inputs.items() if id in self.labels]
        masks = [item for item in args[1] if item is not None and item.dtype in (torch.bool, torch.uint8)]
        return any(mask is tensor for mask in masks for tensor in private)

    def _is_allowed(self, facts: Operation, args: Any, inputs: dict[int, torch.Tensor], result: Any) -> bool:
        if facts.name not in self.allowed or len(inputs) != 1 or not isinstance(result, torch.Tensor):
            return False
        ((id, operand),) = inputs.items()
        enough = operand.numel() >= self.min_group * max(result.numel(), 1)
        return id in self.originals and operand is args[0] and enough

    def _taint(self, written: list[torch.Tensor], inputs: dict[int, torch.Tensor], owners: Owners) -> None:
        for tensor in written:
            known = [self.labels.get(id, PUBLIC) for id, item in inputs.items() if item is tensor]
            if not self.originals and all(owners <= label for label in known):
                continue
            storage = _storage(tensor)
            for id, item in list(self.objects.items()):  # collecting garbage may drop objects meanwhile
                if _storage(item) == storage:
                    self.labels[id] = self.labels.get(id, PUBLIC) | owners
                    self.originals.discard(id)
