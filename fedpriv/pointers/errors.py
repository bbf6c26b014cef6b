"""Errors of the pointer layer: each message names the places involved and says what to do."""

from __future__ import annotations

__all__ = [
    "DeadPointerError",
    "MixedLocationsError",
    "NotLocalError",
    "PrivateValueError",
    "RemoteCallError",
]


class MixedLocationsError(ValueError):
    """Operands of one call live in different places."""


class DeadPointerError(RuntimeError):
    """A pointer whose value its worker no longer holds."""


class NotLocalError(TypeError):
    """A pointer was used where the values themselves are needed (numpy, pickle, storage)."""


class RemoteCallError(RuntimeError):
    """A call on private values failed; the worker keeps the details to itself."""


class PrivateValueError(PermissionError):
    """A private value, or one derived from it, would have left its owner."""
