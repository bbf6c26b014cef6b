"""A picture on its way from the first step of a search to the last."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch

from fedpriv.lab.plots._style import headline, new_figure, write

if TYPE_CHECKING:
    import os
    from pathlib import Path


def plot_strips(
    strips: Mapping[str, Mapping[str, torch.Tensor]], path: str | os.PathLike[str], *, title: str
) -> Path:
    """Draw rows of images, each image with a caption of its own.

    Every pixel is drawn as one square. The range of gray or color is 0 to 1 for all; values outside are cut
    off, so that a wild estimate does not make the others look flat.

    Parameters
    ----------
    strips : mapping of str to mapping of str to Tensor
        A row's label and its images with captions, each (H, W), (1, H, W) or (3, H, W), in [0, 1].
    path : path
        The PNG to write.
    title : str
        Headline of the figure.

    Returns
    -------
    pathlib.Path
        The file written.
    """
    if not strips or not all(strips.values()):
        raise ValueError("expected a strip or more, each with an image or more; got an empty one")
    for label, strip in strips.items():
        for caption, image in strip.items():
            if image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[0] not in (1, 3)):
                raise ValueError(
                    f"expected images (H, W), (1, H, W) or (3, H, W), got {tuple(image.shape)} for "
                    f"{caption!r} in {label!r}"
                )
    columns = max(len(strip) for strip in strips.values())
    figure = new_figure(1.45 * columns + 0.8, 1.75 * len(strips) + 0.7)
    headline(figure, title)
    grid = figure.subplots(len(strips), columns, squeeze=False)
    for row, (label, strip) in zip(grid, strips.items(), strict=True):
        for axes in row[len(strip) :]:
            axes.set_axis_off()
        for axes, (caption, image) in zip(row, strip.items(), strict=False):
            pixels = image.detach().cpu().double().clamp(0, 1)
            pixels = pixels.permute(1, 2, 0).squeeze(-1) if pixels.ndim == 3 else pixels
            axes.imshow(pixels.numpy(), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            axes.set(xticks=[], yticks=[])
            axes.set_xlabel(caption, fontsize=9)
        row[0].set_ylabel(label, fontsize=10)
    return write(figure, path)
