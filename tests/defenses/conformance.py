"""The defenses that every conformance test runs over, and the updates it runs them on.

Add a configured defense here and it inherits the whole suite.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from fedpriv.defenses import Aggregator, Averaging, Clip, Defense, GaussianNoise, SecretSharing

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


@dataclass(frozen=True)
class Case:
    """A configured defense, made afresh around a generator."""

    name: str
    make: Callable[[torch.Generator], Defense]
    is_random: bool


@dataclass(frozen=True)
class AggregatorCase:
    name: str
    make: Callable[[torch.Generator], Aggregator]


CASES = [
    Case("clip", lambda _: Clip(clip_norm=1.0), is_random=False),
    Case("tight clip", lambda _: Clip(clip_norm=1e-3), is_random=False),
    Case("noise", lambda g: GaussianNoise(clip_norm=1.0, noise_multiplier=0.8, generator=g), is_random=True),
    Case(
        "weak noise",
        lambda g: GaussianNoise(clip_norm=0.5, noise_multiplier=0.1, generator=g),
        is_random=True,
    ),
]
AGGREGATORS = [
    AggregatorCase("averaging", lambda _: Averaging()),
    AggregatorCase("secret sharing", lambda g: SecretSharing(generator=g)),
    AggregatorCase("coarse secret sharing", lambda g: SecretSharing(fractional_bits=20, generator=g)),
]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def large_update(dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    """A matrix, a vector, a scalar and an empty tensor; the norm is about 12."""
    return {
        "weight": torch.linspace(-4, 4, 12).reshape(3, 4).to(dtype),
        "bias": torch.tensor([3.0, -4.0, 5.0], dtype=dtype),
        "scale": torch.tensor(2.0, dtype=dtype),
        "nothing": torch.zeros(0, 3, dtype=dtype),
    }
