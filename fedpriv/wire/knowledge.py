"""What the adversary is assumed to know, as a typed value."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, fields
from reprlib import repr as brief  # a hostile value can be long or deep
from typing import Any, TypeVar

from fedpriv.wire.mechanisms import Mechanism, mechanism_from_json
from fedpriv.wire.table import TableSchema

Kind = TypeVar("Kind", bound=Mechanism)
WEIGHTINGS = ("uniform", "samples")
_LARGEST_INPUT = 2**26
_LARGEST_COUNT = 2**31


@dataclass(frozen=True, kw_only=True)
class Knowledge:
    """The adversary's assumptions, all optional, each with the reason why a server might have it.

    Parameters
    ----------
    num_samples : int or None
        Size of the client's data. FedAvg sends it; otherwise attacks deduce it.
    input_shape : tuple of int or None
        Shape of one sample, without the batch. Part of any description of the task.
    num_classes : int or None
        Number of classes, if the task is a classification.
    learning_rate : float or None
        The server chose it. Needed to turn returned parameters into a gradient.
    local_steps : int, default 1
        Gradient steps that the client took before it answered.
    batch_size : int or None
        Samples in each local step; None means all of the client's data.
    input_values, target_values : tuple of float or None
        A declared prior: every coordinate is one of these, for example ``(0.0, 1.0)``.
    noise_std : float, default 0.0
        Standard deviation of the noise that defenses add to each coordinate of the update *as sent*.
        Kerckhoffs: a defense is public, only its random draws are secret.
    weighting : {"samples", "uniform"} or None
        How an aggregator weighs its clients' updates; None where nothing is averaged.
    mechanisms : tuple of Mechanism
        What defenses do to the update, in the order in which they act: bounds, distributions, masks. Empty
        where there is no defense.
    table : TableSchema or None
        Which coordinates of a sample are the columns of a table. Clients encode their rows by it, so a server
        that trains on tables announces it.

    Raises
    ------
    ValueError
        If a value is out of its range.

    Examples
    --------
    >>> Knowledge(learning_rate=0.1, input_shape=(2,)).local_steps
    1
    """

    num_samples: int | None = None
    input_shape: tuple[int, ...] | None = None
    num_classes: int | None = None
    learning_rate: float | None = None
    local_steps: int = 1
    batch_size: int | None = None
    input_values: tuple[float, ...] | None = None
    target_values: tuple[float, ...] | None = None
    noise_std: float = 0.0
    weighting: str | None = None
    mechanisms: tuple[Mechanism, ...] = ()
    table: TableSchema | None = None

    def __post_init__(self) -> None:
        """Bring sequences into tuples and check every range."""
        for name in ("input_shape", "input_values", "target_values", "mechanisms"):
            value = getattr(self, name)
            if value is not None:
                sequence = isinstance(value, Iterable) and not isinstance(value, str)
                object.__setattr__(self, name, tuple(value) if sequence else (value,))
        for name in ("num_samples", "num_classes", "batch_size", "local_steps"):
            value = getattr(self, name)
            if not (_is_count(value) or (value is None and name != "local_steps")):
                raise ValueError(f"{name} must be a whole number of 1 or more, got {brief(value)}")
        shape = self.input_shape
        if shape is not None and not (all(map(_is_count, shape)) and math.prod(shape) <= _LARGEST_INPUT):
            raise ValueError(
                f"input_shape must hold whole numbers of 1 or more with a product of at most "
                f"{_LARGEST_INPUT}, got {brief(shape)}"
            )
        if self.learning_rate is not None and not (_is_real(self.learning_rate) and self.learning_rate > 0):
            raise ValueError(
                f"learning_rate must be a positive number, got {brief(self.learning_rate)}; "
                f"with a rate of zero the returned model says nothing about the data"
            )
        if not (_is_real(self.noise_std) and self.noise_std >= 0):
            raise ValueError(f"noise_std must be a number of 0 or more, got {brief(self.noise_std)}")
        for name in ("input_values", "target_values"):
            value = getattr(self, name)
            if value is not None and not (all(map(_is_real, value)) and len(set(value)) == len(value) > 1):
                raise ValueError(f"{name} must list at least two different finite values, got {brief(value)}")
        if self.weighting not in (None, *WEIGHTINGS):
            raise ValueError(f"weighting must be one of {WEIGHTINGS} or None, got {brief(self.weighting)}")
        if not all(isinstance(mechanism, Mechanism) for mechanism in self.mechanisms):
            raise ValueError(
                f"mechanisms must be values such as Clipped(clip_norm=1.0), got {brief(self.mechanisms)}"
            )
        if not (self.table is None or isinstance(self.table, TableSchema)):
            raise ValueError(f"table must be a TableSchema, got {brief(self.table)}")
        if self.table is not None and shape is not None and math.prod(shape) != self.table.width:
            raise ValueError(
                f"the table's rows hold {self.table.width} numbers, but input_shape {shape} holds "
                f"{math.prod(shape)}; correct one of them"
            )

    @property
    def one_step(self) -> bool:
        """Whether a client takes one step on all its data; what it returns then holds one gradient."""
        return self.local_steps == 1 and self.batch_size is None

    def applied(self, kind: type[Kind]) -> tuple[Kind, ...]:
        """The mechanisms of one kind, in the order in which they act.

        Examples
        --------
        >>> from fedpriv.wire.mechanisms import Clipped, Noised
        >>> Knowledge(mechanisms=(Clipped(clip_norm=2.0), Noised(std=0.1))).applied(Clipped)[0].clip_norm
        2.0
        """
        return tuple(mechanism for mechanism in self.mechanisms if isinstance(mechanism, kind))

    def to_json(self) -> dict[str, Any]:
        """The fields that differ from their defaults, as plain JSON values."""
        changed = {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) != f.default}
        if self.table is not None:
            changed["table"] = self.table.to_json()
        if self.mechanisms:
            changed["mechanisms"] = [mechanism.to_json() for mechanism in self.mechanisms]
        return changed

    @classmethod
    def from_json(cls, values: Any) -> Knowledge:
        """Read back what `to_json` wrote; a ``ValueError`` names what does not belong there."""
        known = {f.name for f in fields(cls)}
        if not isinstance(values, dict) or not known.issuperset(values):
            raise ValueError(
                f"knowledge must be an object with keys out of {sorted(known)}, got {brief(values)}"
            )
        if "mechanisms" in values:
            rows = values["mechanisms"]
            if not isinstance(rows, list):
                raise ValueError(f"mechanisms must be a list of objects, got {brief(rows)}")
            values = {**values, "mechanisms": tuple(mechanism_from_json(row) for row in rows)}
        if values.get("table") is not None:
            values = {**values, "table": TableSchema.from_json(values["table"])}
        return cls(**values)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value < _LARGEST_COUNT


def _is_real(value: object) -> bool:
    """Whether `value` is a finite number (and no whole number too large to become one)."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300
