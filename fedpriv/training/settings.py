"""Checks of single numbers, which the trainer makes of its arguments and an owner of a server's request."""

from __future__ import annotations

import math


def check_rate(lr: object) -> None:
    """Raise a ``ValueError`` unless `lr` is positive and finite."""
    number = isinstance(lr, int | float) and not isinstance(lr, bool)
    if not (number and math.isfinite(lr) and lr > 0):  # type: ignore[arg-type, operator]
        raise ValueError(f"lr must be a positive finite number, got {lr!r}; 0.1 suits the tutorial")


def check_count(name: str, value: object) -> None:
    """Raise a ``ValueError`` unless `value` is a whole number of 1 or more."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} must be a whole number of 1 or more, got {value!r}")
