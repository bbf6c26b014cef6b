"""Whole batches as sheets of images, side by side."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import torch

from fedpriv.lab.plots._style import headline, new_figure, write

if TYPE_CHECKING:
    import os
    from pathlib import Path


def plot_mosaics(sheets: Mapping[str, torch.Tensor], path: str | os.PathLike[str], *, title: str) -> Path:
    """Draw each batch as one square sheet, every pixel as it is, all sheets with one range of gray.

    Parameters
    ----------
    sheets : mapping of str to Tensor of shape (n, 1, H, W)
        A caption and its images, drawn row by row. A single image fills its sheet.
    path : path
        The PNG to write.
    title : str
        Headline of the figure.

    Returns
    -------
    pathlib.Path
        The file written.
    """
    for caption, images in sheets.items():
        if images.ndim != 4 or images.shape[1] != 1 or not len(images):
            raise ValueError(f"expected gray images (n, 1, H, W) for {caption!r}, got {tuple(images.shape)}")
    low = min(float(images.min()) for images in sheets.values())
    high = max(float(images.max()) for images in sheets.values())
    figure = new_figure(3.2 * len(sheets) + 0.4, 4.0)
    headline(figure, title)
    for axes, (caption, images) in zip(
        figure.subplots(1, len(sheets), squeeze=False)[0], sheets.items(), strict=True
    ):
        sheet = _tiled(images.detach().cpu().double()[:, 0], low)
        axes.imshow(sheet.numpy(), cmap="gray", vmin=low, vmax=high, interpolation="nearest")
        axes.set(xticks=[], yticks=[])
        axes.set_xlabel(caption, fontsize=10)
    return write(figure, path)


def sheet_of_numbers(tensors: Iterable[torch.Tensor]) -> torch.Tensor:
    """All numbers of an update as one gray square, as somebody sees them who does not know what to compute.

    Parameters
    ----------
    tensors : iterable of Tensor

    Returns
    -------
    Tensor of shape (1, 1, side, side)
        Row by row, zero in the middle of 0 to 1, the largest hundredth at the ends; padded with the middle.

    Examples
    --------
    >>> sheet_of_numbers([torch.tensor([[-2.0, 0.0]]), torch.tensor([2.0])])[0, 0].tolist()
    [[0.0, 0.5], [1.0, 0.5]]
    """
    numbers = torch.cat([tensor.detach().cpu().double().reshape(-1) for tensor in tensors])
    largest = numbers.abs().sort().values[int(0.99 * (len(numbers) - 1))].clamp_min(1e-300)
    side = math.ceil(len(numbers) ** 0.5)
    padded = torch.nn.functional.pad(numbers, (0, side * side - len(numbers)))
    return (0.5 + 0.5 * padded / largest).clamp(0, 1).reshape(1, 1, side, side)


def _tiled(images: torch.Tensor, background: float) -> torch.Tensor:
    """(n, H, W) as one sheet of about as many rows as columns, a pixel of `background` between images."""
    columns = math.ceil(len(images) ** 0.5)
    missing = -len(images) % columns
    padded = torch.nn.functional.pad(images, (0, 1, 0, 1), value=background)
    padded = torch.cat([padded, padded.new_full((missing, *padded.shape[1:]), background)])
    rows = padded.reshape(-1, columns, *padded.shape[1:])
    return rows.permute(0, 2, 1, 3).reshape(rows.shape[0] * rows.shape[2], -1)[:-1, :-1]
