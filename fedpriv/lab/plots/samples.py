"""Samples themselves: images above each other, and points in the plane."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch

from fedpriv.lab.metrics import PSNR_CAP
from fedpriv.lab.plots._style import headline, label_axes, new_figure, style_of, write
from fedpriv.lab.scoring import Score, score

if TYPE_CHECKING:
    import os
    from pathlib import Path

    from matplotlib.axes import Axes

_DEFAULT_TITLE = "Truth (top) and what the server reconstructed"


def compare_images(
    truth: torch.Tensor,
    reconstruction: torch.Tensor | Mapping[str, torch.Tensor],
    path: str | os.PathLike[str],
    *,
    title: str = _DEFAULT_TITLE,
    data_range: float | None = None,
    max_columns: int = 10,
) -> Path:
    """Draw true images above reconstructed ones, with the PSNR under each.

    Every pixel is drawn as one square (nearest neighbor, no smoothing) and all images share one range of
    gray, that of the truth, so nothing looks better than it is. Reconstructions are matched to the truth as
    `score` does.

    Parameters
    ----------
    truth : Tensor of shape (n, H, W), (n, 1, H, W) or (n, 3, H, W)
        The true images.
    reconstruction : Tensor of shape (m, ...), or mapping of str to such a tensor
        The reconstructed images in any order; a mapping gives one labeled row to each of its values.
    path : path
        The PNG to write.
    title : str, optional
        Headline of the figure.
    data_range : float, optional
        As in `score`.
    max_columns : int, optional
        At most this many true images are drawn, the first ones.

    Returns
    -------
    pathlib.Path
        The file written.
    """
    rows = reconstruction if isinstance(reconstruction, Mapping) else {"reconstructed": reconstruction}
    if truth.ndim not in (3, 4) or (truth.ndim == 4 and truth.shape[1] not in (1, 3)) or not rows:
        raise ValueError(
            "expected images of shape (n, H, W), (n, 1, H, W) or (n, 3, H, W) and a reconstruction or more, "
            f"got truth of shape {tuple(truth.shape)} and {len(rows)} reconstructions"
        )
    if max_columns < 1:
        raise ValueError(f"max_columns must be at least 1, got {max_columns}")
    scores = {label: score(claimed, truth, data_range=data_range) for label, claimed in rows.items()}
    columns = min(max_columns, len(truth))
    low, high = _gray_range(truth)
    figure = new_figure(max(4.5, 1.25 * columns + 1.0), 1.5 * (len(rows) + 1) + 0.7)
    headline(figure, title)
    grid = figure.subplots(len(rows) + 1, columns, squeeze=False)
    for column in range(columns):
        _draw_image(grid[0, column], truth[column], low, high)
        for axes, (label, claimed) in zip(grid[1:, column], rows.items(), strict=True):
            _draw_estimate(axes, claimed, scores[label], column, low, high)
    for axes, label in zip(grid[:, 0], ["truth", *rows], strict=True):
        axes.set_ylabel(label, fontsize=10)
    return write(figure, path)


def plot_points(
    truth: Mapping[str, torch.Tensor],
    estimate: Mapping[str, torch.Tensor],
    path: str | os.PathLike[str],
    *,
    title: str = "Truth (open) and what the server found (filled)",
    xlabel: str = "first coordinate",
    ylabel: str = "second coordinate",
) -> Path:
    """Draw points of several clients in the plane: truth as large open markers, estimates small and filled.

    Parameters
    ----------
    truth, estimate : mapping of client name to Tensor of shape (n, 2)
        The points; `estimate` may lack clients and hold any number of points.
    path : path
        The PNG to write.
    title, xlabel, ylabel : str, optional
        The words on the figure.

    Returns
    -------
    pathlib.Path
        The file written.
    """
    for client, points in [*truth.items(), *estimate.items()]:
        if points.ndim != 2 or points.shape[1] != 2:
            raise ValueError(f"expected points of shape (n, 2) for {client!r}, got {tuple(points.shape)}")
    figure = new_figure(5.6, 6.2)
    axes = figure.subplots()
    headline(figure, title)
    label_axes(axes, xlabel, ylabel)
    for index, client in enumerate(dict.fromkeys([*truth, *estimate])):
        look = style_of(index)
        if client in truth:
            x, y = truth[client].detach().cpu().double().T
            size = 220 + 90 * index  # points that two clients share stay visible as nested outlines
            axes.scatter(
                x, y, s=size, marker=look.marker, facecolors="none", edgecolors=look.color, linewidths=1.8,
                label=f"{client}: truth",
            )  # fmt: skip
        if client in estimate:
            x, y = estimate[client].detach().cpu().double().T
            axes.scatter(x, y, s=36, marker=look.marker, color=look.color, label=f"{client}: reconstructed")
    axes.margins(0.18)
    axes.set_box_aspect(1)
    figure.legend(fontsize=9, loc="outside lower center", ncols=2, labelspacing=1.4, handletextpad=1.2)
    return write(figure, path)


def _draw_estimate(
    axes: Axes, claimed: torch.Tensor, result: Score, column: int, low: float, high: float
) -> None:
    index = int(result.assignment[column])
    if index < 0:
        axes.set_facecolor("0.93")
        axes.text(0.5, 0.5, "not found", ha="center", va="center", fontsize=9, transform=axes.transAxes)
        axes.set(xticks=[], yticks=[])
        axes.set_box_aspect(1)
        return
    _draw_image(axes, claimed[index], low, high)
    value = float(result.psnr[column])
    axes.set_xlabel(f"{'≥ ' if value >= PSNR_CAP else ''}{value:.0f} dB", fontsize=10)


def _draw_image(axes: Axes, image: torch.Tensor, low: float, high: float) -> None:
    pixels = image.detach().cpu().double()
    if pixels.ndim == 3:  # (C, H, W): drop a single channel, else color last
        pixels = pixels[0] if len(pixels) == 1 else pixels.permute(1, 2, 0)
    shown = ((pixels - low) / (high - low)).clamp(0, 1)
    axes.imshow(shown.numpy(), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    axes.set(xticks=[], yticks=[])


def _gray_range(truth: torch.Tensor) -> tuple[float, float]:
    low, high = truth.min().item(), truth.max().item()
    if low >= 0 and high <= 1:
        return 0.0, 1.0
    return low, high if high > low else low + 1.0
