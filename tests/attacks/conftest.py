from __future__ import annotations

import pytest
import torch


@pytest.fixture(autouse=True)
def _same_initial_models():
    """Layers take their first values from torch's global generator: the same ones in every run of a test."""
    torch.manual_seed(0)
