"""Lesson 7: masks that cancel, shares of a secret, and a sum after a dropout: the answer."""

from __future__ import annotations

import math


def masked(value: int, me: int, masks: dict[int, int], q: int) -> int:
    """Plus toward larger numbers, minus toward smaller ones."""
    return (value + sum(mask if me < other else -mask for other, mask in masks.items())) % q


def recover(shares: dict[int, int], q: int) -> int:
    """Lagrange interpolation at zero."""
    total = 0
    for i, share in shares.items():
        others = [j for j in shares if j != i]
        top, bottom = math.prod(others), math.prod(j - i for j in others)
        total += share * top * pow(bottom, -1, q)
    return total % q


def unmask(messages: dict[int, int], lost: int, masks_of_lost: dict[int, int], q: int) -> int:
    """Take back what the survivors added for the one who is gone."""
    open_masks = sum(masks_of_lost[k] if k < lost else -masks_of_lost[k] for k in messages)
    return (sum(messages.values()) - open_masks) % q
