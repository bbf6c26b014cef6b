"""What the adversary is assumed to know, as a typed value."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from typing import Any


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
        Standard deviation of the Gaussian noise that a defense adds to each coordinate of the update *as
        sent*. Kerckhoffs: a defense is public, only its random draws are secret.
    weighting : {"samples", "uniform"} or None
        How an aggregator weighs its clients' updates; None where nothing is averaged.

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

    def __post_init__(self) -> None:
        """Bring sequences into tuples and check every range."""
        for name in ("input_shape", "input_values", "target_values"):
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, tuple(value))
        for name in ("num_samples", "num_classes", "local_steps", "batch_size"):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or int(value) != value or value < 1):
                raise ValueError(f"{name} must be a whole number of 1 or more, got {value!r}")
        if self.input_shape is not None and any(int(size) != size or size < 1 for size in self.input_shape):
            raise ValueError(f"input_shape must hold whole numbers of 1 or more, got {self.input_shape!r}")
        if self.learning_rate is not None and not (math.isfinite(self.learning_rate) and self.learning_rate > 0):
            raise ValueError(
                f"learning_rate must be a positive number, got {self.learning_rate!r}; "
                f"with a rate of zero the returned model says nothing about the data"
            )
        if not (math.isfinite(self.noise_std) and self.noise_std >= 0):
            raise ValueError(f"noise_std must be 0 or more, got {self.noise_std!r}")
        for name in ("input_values", "target_values"):
            value = getattr(self, name)
            if value is not None and (len(value) < 2 or not all(math.isfinite(v) for v in value)):
                raise ValueError(f"{name} must list at least two finite values, got {value!r}")

    def to_json(self) -> dict[str, Any]:
        """The fields that differ from their defaults, as plain JSON values."""
        return {f.name: asdict(self)[f.name] for f in fields(self) if getattr(self, f.name) != f.default}

    @classmethod
    def from_json(cls, values: Any) -> Knowledge:
        """Read back what `to_json` wrote; a ``ValueError`` names what does not belong there."""
        known = {f.name for f in fields(cls)}
        if not isinstance(values, dict) or not known.issuperset(values):
            raise ValueError(f"knowledge must be an object with keys out of {sorted(known)}, got {values!r:.200}")
        try:
            return cls(**{name: tuple(v) if isinstance(v, list) else v for name, v in values.items()})
        except TypeError as error:
            raise ValueError(f"knowledge has a value of the wrong type: {error}") from error
