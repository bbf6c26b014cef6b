"""What a pointer refuses, because it needs the values: numpy, pickle, lists, the storage."""

from __future__ import annotations

from typing import Any, NoReturn

from fedpriv.pointers.errors import NotLocalError
from fedpriv.pointers.protocol import RemoteRef

__all__ = ["Opaque"]


class Opaque:
    """Mixin for a tensor without values; torch would crash or read garbage in these methods."""

    __slots__ = ()  # torch swaps the classes of tensor objects, which must have one layout
    _remote: RemoteRef

    def _refuse(self, action: str) -> NoReturn:
        raise NotLocalError(
            f"{action} needs the values, which are at {self._remote.worker.id}; call .get() first."
        )

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        self._refuse("Pickling (or copying, or torch.save) a pointer")

    def __array__(self, *_: Any, **__: Any) -> NoReturn:
        """Refuse conversion to numpy."""
        self._refuse("Conversion to numpy")

    def __dlpack__(self, *_: Any, **__: Any) -> NoReturn:
        """Refuse to share memory with another library."""
        self._refuse("Conversion by DLPack")

    def numpy(self, *_: Any, **__: Any) -> NoReturn:
        """Refuse conversion to numpy."""
        self._refuse("Conversion to numpy")

    def tolist(self) -> NoReturn:
        """Refuse conversion to a list."""
        self._refuse("Conversion to a list")

    def untyped_storage(self) -> NoReturn:
        """Refuse access to the storage."""
        self._refuse("Access to the storage")

    def storage(self) -> NoReturn:
        """Refuse access to the storage."""
        self._refuse("Access to the storage")

    def data_ptr(self) -> NoReturn:
        """Refuse access to the storage."""
        self._refuse("Access to the storage")

    def share_memory_(self) -> NoReturn:
        """Refuse access to the storage."""
        self._refuse("Sharing memory")
