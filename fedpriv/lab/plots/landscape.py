"""A function on a plane, as a map with the places where it vanishes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import torch

from fedpriv.lab.plots._style import headline, new_figure, write

if TYPE_CHECKING:
    import os
    from pathlib import Path


class Landscape(NamedTuple):
    """Values on a grid, and points to mark.

    Parameters
    ----------
    x, y : Tensor of shape (k,) and (l,)
        The grid.
    values : Tensor of shape (l, k)
        Positive; drawn as its logarithm.
    truth : Tensor of shape (n, 2)
        Drawn as open circles.
    """

    x: torch.Tensor
    y: torch.Tensor
    values: torch.Tensor
    truth: torch.Tensor


def plot_landscapes(
    maps: Mapping[str, Landscape], path: str | os.PathLike[str], *, title: str, label: str
) -> Path:
    """Draw one map for each entry, dark where the values are small, all with one scale.

    Parameters
    ----------
    maps : mapping of str to Landscape
    path : path
        The PNG to write.
    title, label : str
        Headline, and what the shades mean.

    Returns
    -------
    pathlib.Path
        The file written.
    """
    logs = {name: entry.values.double().clamp_min(1e-300).log10() for name, entry in maps.items()}
    low, high = min(float(v.min()) for v in logs.values()), max(float(v.max()) for v in logs.values())
    figure = new_figure(3.3 * len(maps) + 0.9, 4.0)
    headline(figure, title)
    grid = figure.subplots(1, len(maps), squeeze=False)[0]
    for axes, (name, entry) in zip(grid, maps.items(), strict=True):
        shades = axes.pcolormesh(
            entry.x.numpy(),
            entry.y.numpy(),
            logs[name].numpy(),
            cmap="gray",
            vmin=low,
            vmax=high,
            rasterized=True,
        )
        truth = entry.truth.double().numpy()
        axes.scatter(truth[:, 0], truth[:, 1], s=130, facecolors="none", edgecolors="#d9730d", linewidths=2)
        axes.set_title(name, fontsize=11)
        axes.set(xlabel="first direction of the plane", xticks=[], yticks=[])
    grid[0].set_ylabel("second direction of the plane")
    figure.colorbar(shades, ax=list(grid), label=label)
    return write(figure, path)
