"""Reconstructed images as one sheet."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

_SIDE = 128
"""Pixels to which the shorter side of one image is enlarged, by whole factors."""


def draw_images(inputs: torch.Tensor, path: Path) -> Path | None:
    """Write images (n, 1 or 3, H, W) or (n, H, W) row by row as a PNG; None if these are no images.

    The darkest value of all is black, the brightest white.
    """
    images = inputs.detach().cpu().double()
    images = images[:, None] if images.dim() == 3 else images
    if images.dim() != 4 or images.shape[1] not in (1, 3) or min(images.shape[2:]) < 4 or not images.numel():
        return None
    import matplotlib.image

    columns = math.ceil(len(images) ** 0.5)
    low, high = float(images.min()), float(images.max())
    shown = (images - low) / max(high - low, 1e-12)
    shown = shown.expand(-1, 3, -1, -1).permute(0, 2, 3, 1)  # (n, H, W, 3)
    factor = max(1, _SIDE // min(shown.shape[1:3]))
    shown = shown.repeat_interleave(factor, 1).repeat_interleave(factor, 2)
    blank = shown.new_ones(-len(images) % columns, *shown.shape[1:])
    tiles = _bordered(shown if not len(blank) else _joined(shown, blank))
    sheet = tiles.reshape(-1, columns, *tiles.shape[1:]).permute(0, 2, 1, 3, 4)
    sheet = sheet.reshape(-1, columns * tiles.shape[2], 3)
    matplotlib.image.imsave(path, sheet.clamp(0, 1).numpy())
    return path


def _joined(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    import torch

    return torch.cat([first, second])


def _bordered(tiles: torch.Tensor) -> torch.Tensor:
    """A white line around each image."""
    framed = tiles.new_ones(len(tiles), tiles.shape[1] + 4, tiles.shape[2] + 4, 3)
    framed[:, 2:-2, 2:-2] = tiles
    return framed
