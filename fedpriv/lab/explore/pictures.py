"""Pictures for the page: images as they are, numbers as colors, points as a plot; all as PNG."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from fedpriv.lab.explore.scene import Scene
from fedpriv.lab.plots import plot_points
from fedpriv.lab.plots._style import STYLES

if TYPE_CHECKING:
    from matplotlib.colors import Colormap

MOST_ROWS = 8
_LIMIT = 0.98
"""Quantile of the absolute values that gets the full color: one large number leaves the others visible."""


def image(pixels: torch.Tensor) -> bytes:
    """One image (1 or 3, H, W) in [0, 1] at its own size; values outside are cut off."""
    shown = pixels.detach().double().nan_to_num(0.5).clamp(0, 1)
    return _png(shown.expand(3, -1, -1).permute(1, 2, 0))


def signed(values: torch.Tensor) -> bytes:
    """Numbers (H, W) as colors: blue below zero, white at zero, orange above."""
    flat = values.detach().double()
    largest = float(flat.abs().flatten().quantile(_LIMIT)) or float(flat.abs().max()) or 1.0
    colored = _diverging()(((flat / largest).clamp(-1, 1) / 2 + 0.5).numpy())
    return _png(torch.from_numpy(colored)[..., :3])


def rows_of_update(scene: Scene) -> list[tuple[int, torch.Tensor]]:
    """The rows of the first layer's part of the last update with the largest norms, shaped like a picture.

    Returns
    -------
    list of (int, Tensor of shape (H, W))
        Number of the neuron (or of the filter) and its part of the update, mean over colors.
    """
    first = next(t for t in scene.observations[-1].update.tensors.values() if t.ndim > 1)
    order = first.flatten(1).norm(dim=1).argsort(descending=True)[:MOST_ROWS].sort().values
    shape = tuple(first.shape[1:] if first.ndim > 2 else scene.truth[0].shape[1:])
    shape = shape if len(shape) == 3 else (1, 1, *shape)
    return [(int(row), first[row].reshape(shape).mean(0)) for row in order]


def numbers_of_update(scene: Scene) -> tuple[list[str], list[list[float]]]:
    """The first layer's part of the last updates as numbers: headings, and one row a visit or a neuron."""
    update = scene.observations[-1].update.tensors
    weight, bias = list(update.values())[:2]
    headings = [*(f"weight {k + 1}" for k in range(weight.shape[1])), "bias"]
    if len(weight) == 1:
        tensors = [list(o.update.tensors.values())[:2] for o in scene.observations]
        return headings, [[*w[0].tolist(), *b.tolist()] for w, b in tensors]
    joined = torch.cat([weight, bias[:, None]], dim=1)
    order = joined.norm(dim=1).argsort(descending=True)[:MOST_ROWS].sort().values
    return headings, joined[order].tolist()


def points(truth: Mapping[str, torch.Tensor], found: torch.Tensor | None) -> bytes:
    """Everybody's points open, what the server found filled."""
    claimed = {} if found is None else {"the server": found[found.isfinite().all(dim=1)]}
    title = "Everybody's points" if found is None else "Truth (open) and what the server found (filled)"
    with tempfile.TemporaryDirectory() as folder:
        return plot_points(truth, claimed, Path(folder) / "points.png", title=title).read_bytes()


@lru_cache(maxsize=1)
def _diverging() -> Colormap:
    from matplotlib.colors import LinearSegmentedColormap

    blue, orange = STYLES[0].color, STYLES[1].color
    return LinearSegmentedColormap.from_list("signed", [blue, "#ffffff", orange])


def _png(pixels: torch.Tensor) -> bytes:
    """(H, W, 3) in [0, 1]."""
    import matplotlib.image

    buffer = BytesIO()
    matplotlib.image.imsave(buffer, pixels.numpy(), format="png")
    return buffer.getvalue()
