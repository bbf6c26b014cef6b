"""Dropout draws from torch's global generators: seed them from ours, and restore them afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from fedpriv.defenses.randomness import draw_seed


@contextmanager
def seeded(generator: torch.Generator, model: nn.Module) -> Iterator[None]:
    """Seed torch's global generators from `generator` and restore them afterwards."""
    devices = sorted({p.device.index for p in model.parameters() if p.device.type == "cuda"})
    with torch.random.fork_rng(devices=devices):
        torch.default_generator.manual_seed(draw_seed(generator))
        for device in devices:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(draw_seed(generator))
        yield
