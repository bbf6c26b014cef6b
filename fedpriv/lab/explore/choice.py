"""What somebody chose on the page: checked, and small enough to be sent to another process."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum

MAX_PEOPLE = 8
MAX_VISITS = 8
MAX_SECONDS = 300.0


class Data(Enum):
    """Whose data: each with the word for it on the page."""

    POINTS = "points in the plane"
    DIGITS = "handwritten digits"
    FACES = "faces"
    PHOTOGRAPHS = "photographs"

    @property
    def max_batch(self) -> int:
        """The most samples of one person that the page offers: more make it slow, not more instructive."""
        return {Data.POINTS: 4, Data.DIGITS: 32, Data.FACES: 8, Data.PHOTOGRAPHS: 4}[self]

    @property
    def models(self) -> tuple[Model, ...]:
        """The models that take such data."""
        return (Model.LINEAR, Model.MLP) if self is Data.POINTS else tuple(Model)


class Model(Enum):
    """Which model is trained."""

    LINEAR = "one linear layer"
    MLP = "three linear layers"
    LENET = "a small LeNet"


@dataclass(frozen=True, kw_only=True)
class Choice:
    """One setting of the page.

    Parameters
    ----------
    data : Data, default Data.DIGITS
    model : Model, default Model.MLP
    batch_size : int, default 4
        Samples of each person.
    people : int, default 1
        How many people's updates are averaged before the server sees anything. 1: Bob answers himself.
    visits : int, default 1
        How often the server asks, each time with the model as it is then.
    clip_norm : float or None
        L2 norm to which every person scales an update down; None does not clip.
    noise_multiplier : float, default 0.0
        Standard deviation of the Gaussian noise divided by the clip norm; 0 adds none.
    seed : int, default 0
        Of data, weights and noise.
    time_budget : float, default 20.0
        Seconds after which the attack stops with the best that it has.

    Raises
    ------
    ValueError
        If a value is out of range or two do not go together; one sentence says what to do.

    Examples
    --------
    >>> Choice(batch_size=2).data.value
    'handwritten digits'
    >>> Choice(noise_multiplier=1.0)
    Traceback (most recent call last):
    ValueError: noise needs a clip norm: without one nobody knows how much noise is enough; choose a clip norm
    """

    data: Data = Data.DIGITS
    model: Model = Model.MLP
    batch_size: int = 4
    people: int = 1
    visits: int = 1
    clip_norm: float | None = None
    noise_multiplier: float = 0.0
    seed: int = 0
    time_budget: float = 20.0

    def __post_init__(self) -> None:
        """Check every range, and what goes together."""
        if self.model not in self.data.models:
            fitting = " or ".join(model.value for model in self.data.models)
            raise ValueError(f"{self.model.value} does not take {self.data.value}; choose {fitting}")
        counts = (("batch_size", self.data.max_batch), ("people", MAX_PEOPLE), ("visits", MAX_VISITS))
        for name, most in counts:
            value = getattr(self, name)
            if not (isinstance(value, int) and 1 <= value <= most):
                raise ValueError(
                    f"{name} must be a whole number from 1 to {most} for {self.data.value}, got {value!r}"
                )
        if self.clip_norm is not None and not (math.isfinite(self.clip_norm) and self.clip_norm > 0):
            raise ValueError(f"clip_norm must be a positive number or None, got {self.clip_norm!r}")
        if not (math.isfinite(self.noise_multiplier) and self.noise_multiplier >= 0):
            raise ValueError(f"noise_multiplier must be a number of 0 or more, got {self.noise_multiplier!r}")
        if self.noise_multiplier and self.clip_norm is None:
            raise ValueError(
                "noise needs a clip norm: without one nobody knows how much noise is enough; "
                "choose a clip norm"
            )
        if not (isinstance(self.seed, int) and self.seed >= 0):
            raise ValueError(f"seed must be a whole number of 0 or more, got {self.seed!r}")
        if not 0 < self.time_budget <= MAX_SECONDS:
            raise ValueError(
                f"time_budget must be above 0 and at most {MAX_SECONDS:g} s, got {self.time_budget!r}"
            )
