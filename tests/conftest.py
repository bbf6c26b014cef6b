"""Settings for all tests."""

from __future__ import annotations

import torch

# The problems are small: threads would only wait for each other, and times on two cores would vary.
torch.set_num_threads(1)
